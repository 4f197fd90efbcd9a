"""A private bus, run by dbus-daemon with the shipped policy file."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.patience import PATIENCE

POLICY = Path(__file__).parents[3] / "systemd/org.handshaked.Handshaked1.conf"
_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""
_WITHOUT_POLICY = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class RunningBus:
    """A dbus-daemon below `directory`, set up like a system bus, or like a session bus without `policy`.

    A context manager.
    """

    def __init__(self, directory: Path, *, policy: bool = True) -> None:
        self.address = f"unix:path={directory}/bus"
        self._configuration = directory / "bus.conf"
        # A policy may only name existing users, and the test machine does not have this one.
        shipped = directory / POLICY.name
        shipped.write_text(POLICY.read_text().replace('<policy user="handshaked">', '<policy user="daemon">'))
        configuration = _CONFIGURATION if policy else _WITHOUT_POLICY
        self._configuration.write_text(configuration.format(directory=directory, policy=shipped))
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process ID of dbus-daemon."""
        assert self._process is not None, "the bus does not run"
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["dbus-daemon", "--nofork", "--print-address", f"--config-file={self._configuration}"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("unix:")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the bus."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=PATIENCE)
            self._process = None

    def call_as(self, uid: int, *script: dict[str, Any]) -> list[Any]:
        """Perform `script` as a client of the user `uid`; return the answer to each step. See ``client``."""
        process = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("client.py")), self.address, str(uid)],
            input=json.dumps(script), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        answers: list[Any] = json.loads(process.stdout)
        return answers
