"""Register a certificate with the daemon: register.py NAME SERVER_NAME ALPN CERTIFICATE KEY."""

import os
import sys
from pathlib import Path

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError


def register(name: str, server_name: str, alpn: str, certificate: Path, key: Path) -> list[str]:
    """Register PEM files under `name`; return the daemon's warnings. RefusedError if the daemon refuses."""
    # The daemon reads the descriptors. It keeps the paths, to load renewed files later.
    descriptors = tuple(os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (certificate, key))
    try:
        with ControlClient() as client:
            result = client.ask(
                "register",
                {
                    "name": name,
                    "server_names": [server_name],
                    "alpns": [alpn],
                    "credentials": [{"certificate": str(certificate), "key": str(key)}],
                    "replace": True,
                },
                descriptors,
            )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return [str(warning) for warning in result["warnings"]]


def main() -> None:
    """Register what the command line says."""
    name, server_name, alpn, certificate, key = sys.argv[1:]
    try:
        warnings = register(name, server_name, alpn, Path(certificate).resolve(), Path(key).resolve())
    except RefusedError as error:
        sys.exit(f"not registered: {error}")
    for warning in warnings:
        print("warning:", warning)
    print("registered", name)


if __name__ == "__main__":
    main()
