"""Programs written for libquic, linked or started with libhandshaked instead."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from handshaked.model import Role
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.c.programs import NAME, PROGRAMS, Run, run_server
from tests.conftest import Issue
from tests.patience import BUILD_PATIENCE, PATIENCE, run_program
from tests.quic_socket_peers import in_thread, left_alone

pytestmark = pytest.mark.needs("cc", "make", "nm")


def test_client_without_server_name_or_psk_is_rejected(run: Run) -> None:
    """It could not authenticate its server."""
    with FakeQuicEndpoint() as endpoint:
        connection = left_alone(endpoint, Role.CLIENT)
        with connection.agent:
            descriptor = connection.agent.fileno()
            assert run("libquic", "client", descriptor, "", "", "h3", descriptor=descriptor) == str(-errno.EINVAL)
    assert not [call for call in connection.socket.calls if call.startswith("send")]


def test_libquic_program_serves_with_own_certificate(run: Run, issue: Issue, authority: Authority) -> None:
    issued = issue("own.example.com")
    printed, seen = run_server(
        run, "libquic", issued.key, issued.certificate, "h3", root=authority.root, name="own.example.com"
    )
    assert printed == "0"
    assert seen.data == b"hello"


def test_libquic_program_serves_with_registered_certificate(run: Run, authority: Authority) -> None:
    printed, seen = run_server(run, "libquic", "", "", "h3", root=authority.root)
    assert printed == "0"
    assert seen.data == b"hello"


def test_libquic_programs_connect_with_psk(run: Run, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"someone:{'5a' * 32}\n")
    with FakeQuicEndpoint() as server, FakeQuicEndpoint() as client:
        port = server.listen()
        asking = in_thread(lambda: client.run(client.exchange(port, b"hello")))
        ours = client.next_connection()
        first = in_thread(
            lambda: run("libquic", "client", ours.agent.fileno(), psk, "", "", descriptor=ours.agent.fileno())
        )
        theirs = server.next_connection()
        with ours.agent, theirs.agent:
            descriptor = theirs.agent.fileno()
            assert run("libquic", "server", descriptor, psk, "", "h3", descriptor=descriptor) == "0"
            assert first.result(PATIENCE) == "0"
        assert asking.result(PATIENCE) == (b"hello", None)


def test_invalid_arguments_are_errnos(run: Run, tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        for role in ("client", "server"):
            printed = run("libquic", role, read, "", NAME if role == "client" else "", "h3", descriptor=read)
            assert printed == str(-errno.EINVAL)
        missing = run("libquic", "server", read, tmp_path / "key", tmp_path / "certificate", "h3", descriptor=read)
        assert missing == str(-errno.ENOENT)
        nobody = run("libquic", "server", read, "", "", "h3", descriptor=read, HANDSHAKED_SOCKET=str(tmp_path / "no"))
        assert nobody == str(-errno.ENOENT)
    finally:
        os.close(read)
        os.close(write)


def runtime(library: str) -> str:
    """Return the path at which the compiler finds `library`."""
    named = run_program("cc", f"-print-file-name={library}", timeout=BUILD_PATIENCE)
    return named.stdout.strip()


def test_preloaded_library_replaces_libquic(
    built: Path, quic_daemon: RunningDaemon, authority: Authority, tmp_path: Path
) -> None:
    preloaded = [str(built / "libhandshaked.so")]
    if b"__asan_init" in (built / "libhandshaked.so").read_bytes():  # sanitizer runtimes must be loaded first
        preloaded[:0] = [runtime("libasan.so"), runtime("libubsan.so")]
    stub = tmp_path / "stub.c"
    stub.write_text("int quic_server_handshake(void) { return 77; }\nint quic_client_handshake(void) { return 77; }\n")
    (tmp_path / "map").write_text("LIBQUIC_1 { global: *; };")  # the program refers to this version by name
    versioned = f"-Wl,--version-script={tmp_path / 'map'}"
    run_program("cc", "-shared", "-fPIC", versioned, "-o", tmp_path / "libquic.so", stub, timeout=BUILD_PATIENCE)
    program = tmp_path / "program"
    link = [f"-L{tmp_path}", "-lquic", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["cc", "-o", program, PROGRAMS / "libquic.c", *link], check=True, timeout=BUILD_PATIENCE)

    def start(name: str, *arguments: object, descriptor: int) -> str:
        completed = subprocess.run(
            [program, *map(str, arguments)],
            pass_fds=(descriptor,),
            env={
                "HANDSHAKED_SOCKET": str(quic_daemon.handshake_socket),
                "LD_PRELOAD": ":".join(preloaded),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return completed.stdout.strip()

    printed, seen = run_server(start, "libquic", "", "", "h3", root=authority.root)
    assert printed == "0"
    assert seen.data == b"hello"
