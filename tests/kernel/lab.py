"""Boot Debian 13's User-Mode Linux with the project installed, and run a program of ``inside/`` in it as root.

Every boot gets a temporary overlay layer on top of those of ``layers``; the output of the program and of the machine is
read from it. ``qemu`` does the same with Debian's stock kernel.
"""

import resource
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.layers import base, in_overlay, project_layer
from tests.run_name import PREFIX

HERE = Path(__file__).parent
_BOOT_SECONDS = 720
_SYSTEMD = (
    "init=/usr/lib/systemd/systemd selinux=0 systemd.run=/lab/init.sh systemd.run_success_action=poweroff-force"
    " systemd.run_failure_action=poweroff-force"
)


@dataclass(frozen=True, slots=True)
class Result:
    """The exit status and output of a program in the lab, and the CPU time of its machine."""

    status: int
    output: str
    cpu_seconds: float


def boot(
    program: str, *arguments: str, memory: str = "1G", systemd: bool = False, prepare: str | None = None
) -> Result:
    """Run the Python module `program` of ``inside/`` in its own kernel, with systemd as PID 1 if `systemd`.

    The module `prepare` runs before systemd, which then boots completely and has to start ``init.sh`` by itself.
    """
    init = _SYSTEMD if systemd else "init=/lab/init.sh"
    if prepare is not None:
        init = f"init=/lab/boot.sh lab_prepare={prepare}"
    machine = f"linux.uml mem={memory} rootfstype=hostfs rootflags=/ rw {init} con=null con0=fd:0,fd:1 quiet"
    return run_in(base(), (), f"{machine} lab_program={program}", arguments)


def run_in(root: Path, layers: tuple[Path, ...], machine: str, arguments: tuple[str, ...]) -> Result:
    """Run the command `machine`, which boots into ``init.sh``, in `root` overlaid with `layers` and the project."""
    project = project_layer(root)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}lab-", ignore_cleanup_errors=True) as name:
        layer = Path(name)
        lab = layer / "upper" / "lab"
        shutil.copytree(HERE / "inside", lab / "tests" / "kernel" / "inside")
        for script in ("init.sh", "boot.sh"):
            shutil.copy(HERE / script, lab)
        (lab / "arguments").write_text(shlex.join(arguments))
        command = f"chroot {layer}/merged {machine}; exit $?"
        before = _cpu_seconds()
        console = in_overlay(layer, (project, *layers, root), command, timeout=_BOOT_SECONDS)
        cpu_seconds = _cpu_seconds() - before
        texts = [path.read_text(errors="replace") for path in (lab / "err", lab / "out") if path.exists()]
        output = "\n".join(texts)
        try:
            return Result(int((lab / "rc").read_text()), output, cpu_seconds)
        except (FileNotFoundError, ValueError):
            return Result(125, f"{output}\nthe kernel stopped early:\n{console}", cpu_seconds)


def _cpu_seconds() -> float:
    """Return the user and system time of all child processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
