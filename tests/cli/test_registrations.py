"""The commands on registrations: what they do, what they refuse, with which words and exit code."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from handshaked.model import KeyType
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.patience import PATIENCE

PROGRAM = Path(sys.executable).with_name("handshakectl")
NAME = "a.example.com"


class Run:
    """A finished command: its exit code and output."""

    def __init__(self, *words: str, socket: Path | None = None) -> None:
        command = [str(PROGRAM), words[0], *([f"--socket={socket}"] if socket else []), *words[1:]]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        self.code = done.returncode
        self.out = done.stdout.decode()
        self.error = done.stderr.decode()
        assert "Traceback" not in self.error

    @property
    def json(self) -> Any:
        """Return the output, parsed."""
        return json.loads(self.out)


Control = Callable[..., Run]


@pytest.fixture
def control(daemon: RunningDaemon) -> Control:
    def run(*words: str) -> Run:
        return Run(*words, socket=daemon.control_socket)

    return run


def files(issued: Issued) -> list[str]:
    return [f"--cert={issued.certificate}", f"--key={issued.key}"]


def refused(run: Run) -> str:
    """Return why a command was refused: exit code 1, and nothing on standard output."""
    assert (run.code, run.out) == (1, ""), run.error
    assert run.error.startswith("handshakectl: ")
    return run.error


def names(control: Control) -> list[str]:
    return [registration["name"] for registration in control("list", "--json").json["registrations"]]


def test_register_list_show_explain_unregister(control: Control, issue: Issue) -> None:
    done = control("register", "web", *files(issue(NAME)), "--alpn", "h3", "--alpn", r"\x00x", "--server-name", NAME)
    assert (done.code, done.error) == (0, "")
    shown = control("show", "web")
    assert shown.code == 0
    for word in ("web", NAME, "h3", r"\x00x", "ecdsa-p256", str(issue(NAME).certificate)):
        assert word in shown.out
    listed = control("list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "web"]
    explained = control("explain", "--server-name", NAME, "--alpn", "h3")
    assert (explained.code, "web" in explained.out) == (0, True)
    assert control("unregister", "web").code == 0
    assert names(control) == []


def test_every_command_prints_json_on_request(control: Control, issue: Issue) -> None:
    issued = issue(NAME)
    registered = control("register", "web", *files(issued), "--alpn=h3", f"--server-name={NAME}", "--json")
    shown = control("show", "web", "--json").json["registration"]
    assert registered.json["registration"] | {"warnings": registered.json["warnings"]} == shown
    assert (shown["name"], shown["owner"], shown["server_names"], shown["alpns"]) == (
        "web",
        os.getuid(),
        [NAME],
        ["h3"],
    )
    (credential,) = shown["credentials"]
    assert (credential["key_type"], credential["certificate"]) == ("ecdsa-p256", str(issued.certificate))
    assert control("list", "--json").json["registrations"] == [shown]
    explained = control("explain", f"--server-name={NAME}", "--alpn=h3", "--json").json
    assert (explained["registration"], explained["alpn"], explained["certificate"]) == (
        "web",
        "h3",
        credential["sha256"],
    )
    status = control("status", "--json").json
    assert (status["registrations"], len(status["workers"])) == (1, 1)
    assert control("reload", "--json").json == {"renewed": [], "errors": []}
    for output in (registered.out, control("show", "web", "--json").out):
        assert "PRIVATE" not in output


def test_status_and_reload_print_text(control: Control) -> None:
    assert "1 of 1" in control("status").out
    assert control("reload").code == 0


@pytest.mark.parametrize("key_type", [KeyType.RSA, KeyType.ECDSA_P256, KeyType.ECDSA_P384, KeyType.ED25519])
def test_every_credential_form_is_accepted(control: Control, issue: Issue, tmp_path: Path, key_type: KeyType) -> None:
    issued = issue(NAME, key_type=key_type)
    key = load_pem_private_key(issued.key.read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret words")
    forms = {"pkcs8": PrivateFormat.PKCS8}
    if key_type is not KeyType.ED25519:
        forms["traditional"] = PrivateFormat.TraditionalOpenSSL  # PKCS#1 and SEC1
    passphrase = private(tmp_path / "passphrase", b"secret words\n")
    for form, kind in forms.items():
        plain = private(tmp_path / f"{form}.key", key.private_bytes(Encoding.PEM, kind, NoEncryption()))
        locked = private(tmp_path / f"{form}.locked", key.private_bytes(Encoding.PEM, kind, encryption))
        certificate = f"--cert={issued.certificate}"
        arguments = ("--alpn=h3", f"--server-name={NAME}", "--replace")
        assert control("register", "web", certificate, f"--key={plain}", *arguments).code == 0
        unlocking = f"--passphrase-file={passphrase}"
        assert control("register", "web", certificate, f"--key={locked}", unlocking, *arguments).code == 0
    bundle = pkcs12.serialize_key_and_certificates(b"web", key, issued.leaf, None, encryption)  # type: ignore[arg-type] # of these types
    bundle_file = private(tmp_path / "bundle.p12", bundle)
    unlocking = f"--passphrase-file={passphrase}"
    assert control("register", "web", f"--pkcs12={bundle_file}", unlocking, *arguments).code == 0
    (credential,) = control("show", "web", "--json").json["registration"]["credentials"]
    assert credential["key_type"] == key_type.value


def test_credentials_keep_their_order(control: Control, issue: Issue) -> None:
    rsa, ecdsa = issue(NAME, key_type=KeyType.RSA), issue(NAME)
    assert control("register", "web", *files(rsa), *files(ecdsa), "--alpn=h3", f"--server-name={NAME}").code == 0
    shown = control("show", "web", "--json").json["registration"]["credentials"]
    assert [credential["key_type"] for credential in shown] == ["rsa", "ecdsa-p256"]


def test_users_and_groups_are_given_by_name_or_number(control: Control, issue: Issue) -> None:
    root = pwd.getpwuid(0).pw_name
    users = ("--allow-user", root, "--allow-user", "1234", "--allow-group", "root", "--allow-group", "5678")
    assert control("register", "web", *files(issue(NAME)), "--alpn=h3", *users, "--allow-kernel").code == 0
    shown = control("show", "web", "--json").json["registration"]
    assert (shown["allow_users"], shown["allow_groups"], shown["allow_kernel"]) == ([0, 1234], [0, 5678], True)


def test_explain_exits_with_1_and_the_alert_for_a_refused_client(control: Control, issue: Issue) -> None:
    control("register", "web", *files(issue(NAME)), "--alpn=h3", f"--server-name={NAME}")
    for words, alert in (
        (("--server-name=unknown.example.com", "--alpn=h3"), "unrecognized_name"),
        ((f"--server-name={NAME}", "--alpn=smb"), "no_application_protocol"),
        (("--alpn=h3",), "missing_extension"),
    ):
        run = control("explain", *words)
        assert (run.code, alert in run.out) == (1, True)
        assert control("explain", *words, "--json").json["alert"] == alert


def test_explain_accepts_internationalized_names(control: Control, issue: Issue) -> None:
    control("register", "web", *files(issue(NAME)), "--alpn=h3", "--server-name=bücher.example")
    assert control("explain", "--server-name=bücher.example", "--alpn=h3", "--json").json["registration"] == "web"
    assert "is not a valid internationalised name" in refused(
        control("explain", "--server-name=bü cher.example", "--alpn=h3")
    )


@pytest.mark.needs("root")
def test_explain_answers_for_another_user(control: Control, issue: Issue) -> None:
    control("register", "web", *files(issue(NAME)), "--alpn=h3", f"--server-name={NAME}", "--allow-user=1234")
    asked = ("explain", f"--server-name={NAME}", "--alpn=h3", "--json")
    assert control(*asked, "--user=1234").json["registration"] == "web"
    assert control(*asked, "--user=1235").json["alert"] == "unrecognized_name"
    assert control(*asked, "--user=kernel").json["alert"] == "unrecognized_name"


def test_list_reads_all_pages(control: Control, daemon: RunningDaemon, issue: Issue) -> None:
    issued = issue(NAME)
    for number in range(205):
        daemon.register(
            f"r{number:03}", (issued.certificate, issued.key), alpns=["h3"], server_names=[f"n{number}.example.com"]
        )
    assert names(control) == [f"r{number:03}" for number in range(205)]


def private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def expect_refusals(control: Control, cases: list[tuple[list[str], str]]) -> None:
    """Check that each registration is refused with these words, and that none was made."""
    for words, reason in cases:
        run = control("register", "web", "--alpn=h3", f"--server-name={NAME}", *words)
        assert reason in refused(run), words
    assert names(control) == []


def test_unusable_files_are_refused_and_change_nothing(
    control: Control, authority: Authority, issue: Issue, tmp_path: Path
) -> None:
    issued, other = issue(NAME), issue("b.example.com")
    key = issued.key.read_bytes()
    readable = private(tmp_path / "readable.key", key)
    readable.chmod(0o644)
    locked = private(
        tmp_path / "locked.key",
        load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    )
    weak = 1024
    unsupported = private(
        tmp_path / "dsa.key",
        dsa.generate_private_key(weak).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    curve = private(
        tmp_path / "curve.key",
        ec.generate_private_key(ec.SECP256K1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    garbage = private(tmp_path / "garbage.pem", b"garbage")
    expired = authority.issue(NAME, valid=(-3, -1), file_name="cli-expired")
    early = authority.issue(NAME, valid=(1, 3), file_name="cli-early")
    certificate = f"--cert={issued.certificate}"
    cases: list[tuple[list[str], str]] = [
        ([certificate, f"--key={other.key}"], "does not match the certificate"),
        ([certificate, f"--key={tmp_path / 'missing'}"], "No such file or directory"),
        ([f"--cert={tmp_path}", f"--key={issued.key}"], "not a regular file"),
        ([certificate, f"--key={readable}"], "everyone can read this secret file"),
        ([certificate, f"--key={locked}"], "give its passphrase file"),
        ([certificate, f"--key={locked}", f"--passphrase-file={garbage}"], "the passphrase is wrong"),
        ([certificate, f"--key={unsupported}"], "DSA keys are not supported"),
        ([certificate, f"--key={curve}"], "is not supported; use P-256"),
        ([certificate, f"--key={garbage}"], "no readable private key in PEM form"),
        ([f"--cert={garbage}", f"--key={issued.key}"], "no certificate in PEM form"),
        ([f"--pkcs12={garbage}"], "not readable as PKCS#12"),
        (files(expired), "expired on"),
        (files(early), "is not valid before"),
    ]
    expect_refusals(control, cases)


def test_invalid_options_are_refused_and_change_nothing(control: Control, issue: Issue) -> None:
    issued = issue(NAME)
    cases: list[tuple[list[str], str]] = [
        ([*files(issued), "--alpn="], "an ALPN protocol of 0 bytes"),
        ([*files(issued), "--alpn=h3"], "ALPN is given twice"),
        ([*files(issued), "--alpn=\\x"], "write a backslash as"),
        ([*files(issued), f"--server-name={NAME.upper()}"], "server name is given twice"),
        ([*files(issued), "--server-name=a b"], "is not a host name"),
        ([*files(issued), "--server-name=192.0.2.1"], "is an IP address"),
        ([*files(issued), "--allow-user=nobody-of-this-name"], "unknown user 'nobody-of-this-name'"),
        ([*files(issued), "--allow-group=nobody-of-this-name"], "unknown group 'nobody-of-this-name'"),
        ([*files(issued), "--allow-user=99999999999"], "99999999999"),
    ]
    expect_refusals(control, cases)
    assert "registration name" in refused(control("register", "we b", *files(issued), "--alpn=h3"))


def test_an_alpn_that_is_not_utf8_is_refused(daemon: RunningDaemon, issue: Issue) -> None:
    issued = issue(NAME)
    command = [PROGRAM, "register", "web", f"--socket={daemon.control_socket}", *files(issued), b"--alpn=h\xff"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert b"is not UTF-8" in done.stderr


def test_a_file_that_the_caller_cannot_read_is_refused(control: Control, issue: Issue, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "inside").mkdir(mode=0)
    run = control(
        "register", "web", f"--cert={issue(NAME).certificate}", f"--key={locked / 'inside' / 'key'}", "--alpn=h3"
    )
    assert str(locked / "inside" / "key") in refused(run)


def test_force_accepts_an_expired_certificate(control: Control, authority: Authority) -> None:
    expired = authority.issue(NAME, valid=(-3, -1), file_name="cli-forced")
    run = control("register", "web", *files(expired), "--alpn=h3", f"--server-name={NAME}", "--force")
    assert run.code == 0
    assert names(control) == ["web"]


def test_a_name_not_in_the_certificate_is_a_warning(control: Control, issue: Issue) -> None:
    run = control("register", "web", *files(issue(NAME)), "--alpn=h3", "--server-name=b.example.com")
    assert run.code == 0
    assert "warning: the certificate CN=a.example.com does not cover b.example.com" in run.error


def test_an_overlap_names_the_other_registration_and_its_owner(control: Control, issue: Issue) -> None:
    words = (*files(issue(NAME)), "--alpn=h3", f"--server-name={NAME}")
    control("register", "web", *words)
    reason = refused(control("register", "other", *words, "--alpn=hq", "--server-name=more.example.com"))
    assert f"server name {NAME} with ALPN h3 is held by registration 'web' of uid {os.getuid()}" in reason
    assert "already exists" in refused(control("register", "web", *words))
    assert names(control) == ["web"]
    assert control("register", "web", *words, "--alpn=hq", "--replace").code == 0
    assert control("show", "web", "--json").json["registration"]["alpns"] == ["h3", "hq"]


def test_an_unknown_registration_is_refused(control: Control) -> None:
    assert "there is no registration 'web'" in refused(control("show", "web"))
    assert "there is no registration 'web'" in refused(control("unregister", "web"))


def test_a_reload_with_a_bad_file_exits_with_1_and_says_which(control: Control, authority: Authority) -> None:
    issued = authority.issue(NAME, file_name="cli-bad")
    control("register", "web", *files(issued), "--alpn=h3", f"--server-name={NAME}")
    issued.key.write_bytes(b"garbage")
    run = control("reload")
    assert run.code == 1
    assert f"web: {issued.key}: no readable private key" in run.error


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("register",),
        ("register", "web"),
        ("register", "web", "--alpn=h3"),
        ("register", "web", "--cert=a", "--alpn=h3"),
        ("register", "web", "--cert=a", "--cert=b", "--key=c", "--alpn=h3"),
        ("show",),
        ("unregister",),
        ("list", "--nonsense"),
    ],
)
def test_a_usage_error_exits_with_2(words: tuple[str, ...]) -> None:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_without_a_daemon_the_error_names_the_socket(tmp_path: Path) -> None:
    run = Run("list", socket=tmp_path / "control.sock")
    assert f"{tmp_path / 'control.sock'}: No such file or directory" in refused(run)


@pytest.mark.needs("root")
def test_other_users_may_see_but_not_change_registrations(daemon: RunningDaemon, issue: Issue) -> None:
    issued = issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME], allow_users=["1234"])
    daemon.register("hidden", (issued.certificate, issued.key), alpns=["smb"], server_names=[NAME])
    script = """
import json, os, sys
from pathlib import Path
from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
os.setgroups([]); os.setgid(1234); os.setuid(1234)
with ControlClient(Path(sys.argv[1])) as client:
    print([one["name"] for one in client.ask("list", {})["registrations"]])
    for command, arguments in json.loads(sys.argv[2]):
        try:
            print("done", client.ask(command, arguments))
        except RefusedError as error:
            print("refused", error)
"""
    commands = [
        ("unregister", {"name": "web"}),
        ("show", {"name": "hidden"}),
        ("reload", {}),
        ("explain", {"server_name": NAME, "alpns": ["smb"], "user": "0"}),
        ("register", {"name": "mine", "alpns": ["h3"], "credentials": []}),
        ("register", {"name": "mine", "alpns": ["h3"], "credentials": [{"certificate": "c", "key": "k"}]}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, str(daemon.control_socket), json.dumps(commands)],
        capture_output=True, text=True, check=True, timeout=PATIENCE)  # fmt: skip
    listed, *answers = done.stdout.splitlines()
    assert listed == "['web']"
    assert [answer.split()[0] for answer in answers] == ["refused"] * len(commands), answers
    # The files of those who have no grant were looked at first, however long an encrypted key takes.
    assert "has no grant to register; root can run: handshakectl grant" in answers[-1]
    assert sorted(daemon.ask("show", name="web")["registration"]["alpns"]) == ["h3"]


def test_certificate_for_clients_is_registered_with_a_warning(control: Control, authority: Authority) -> None:
    issued = authority.issue(NAME, client=True, file_name="cli-for-clients")
    run = control("register", "mine", *files(issued), "--alpn=h3", f"--server-name={NAME}")
    assert run.code == 0
    assert f"warning: the certificate CN={NAME} is not for servers by its extended key usage" in run.error
