"""Load the credentials of ordinary users in a separate process with limits on CPU time and memory.

A key file determines how much work it takes to decrypt the key (PBKDF2 iterations, scrypt memory) or to check it (size
of the RSA modulus), and inside an encrypted PKCS#12 file this cannot be known in advance.
"""

import base64
import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from handshaked.control.requests.loading import is_trusted, load
from handshaked.errors import RefusedError
from handshaked.model import KeyType
from handshaked.registry.credentials import LoadedCredential
from handshaked.registry.store import Source
from handshaked.system.capabilities import keep_only, passing_on
from handshaked.system.process import forbid_core_dumps
from handshaked.tls.x509.certificates import Purpose

CPU_SECONDS = 3
"""Enough for a few million PBKDF2 iterations, including the start of the process."""
MEMORY = 1 << 30
_SMALL_KEY = 512  # bytes: enough for elliptic curves; testing the primes of an RSA key could take seconds


def load_for(owner: int, source: Source, contents: tuple[bytes, ...]) -> LoadedCredential:
    """Return the credential of `owner` in `contents`, which are those of the files of `source`. May take seconds.

    A key that is not encrypted and too small for RSA is loaded directly: that is cheaper than a process.
    """
    small = source.key and not source.passphrase and len(contents[1]) <= _SMALL_KEY
    return load(source, contents) if small or is_trusted(owner) else load_in_sandbox(source, contents)


def load_in_sandbox(source: Source, contents: tuple[bytes, ...]) -> LoadedCredential:
    """As ``load``, in a separate process. RefusedError if it takes more than ``CPU_SECONDS`` or ``MEMORY`` bytes."""
    asked = {"source": asdict(source), "contents": [_text(content) for content in contents]}
    with passing_on(()):  # the thread loads others later, and starts threads
        process = subprocess.run(
            [sys.executable, "-m", "handshaked.control.requests.loading_sandbox"],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            check=False,
        )
    if process.returncode > 0:
        path = source.key or source.certificate
        raise OSError(errno.EIO, f"loading it failed: the process exited with status {process.returncode}", path)
    answer = json.loads(process.stdout) if process.returncode == 0 else {"error": _over_limit(source)}
    if "error" in answer:
        raise RefusedError(answer["error"])
    return _pulled(answer)


def main() -> None:
    """Load the credential on standard input, and write the result to standard output."""
    forbid_core_dumps()
    keep_only(())
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    asked = json.load(sys.stdin)
    source = Source(**asked["source"])
    try:
        answer = _pushed(load(source, tuple(map(_bytes, asked["contents"]))))
    except RefusedError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": _over_limit(source)}
    json.dump(answer, sys.stdout)


def _over_limit(source: Source) -> str:
    return (
        f"{source.key or source.certificate}: takes more than {CPU_SECONDS} s of CPU time or {MEMORY >> 20} MiB to"
        " decrypt and check; encrypt it with fewer iterations (openssl pkcs8 -topk8 -iter 100000), or use a smaller key"
    )


def _pushed(loaded: LoadedCredential) -> dict[str, Any]:
    return {
        **asdict(loaded),
        "chain": [_text(one) for one in loaded.chain],
        "key": _text(loaded.key),
        "key_type": loaded.key_type.value,
        "leaf_digest": _text(loaded.leaf_digest),
        "purposes": [purpose.name for purpose in loaded.purposes],
        "ocsp_response": loaded.ocsp_response and _text(loaded.ocsp_response),
    }


def _pulled(answer: dict[str, Any]) -> LoadedCredential:
    return LoadedCredential(
        chain=tuple(_bytes(one) for one in answer.pop("chain")),
        key=_bytes(answer.pop("key")),
        key_type=KeyType(answer.pop("key_type")),
        leaf_digest=_bytes(answer.pop("leaf_digest")),
        names=tuple(answer.pop("names")),
        purposes=frozenset(Purpose[name] for name in answer.pop("purposes")),
        ocsp_response=(response := answer.pop("ocsp_response")) and _bytes(response),
        **answer,
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


if __name__ == "__main__":
    main()
