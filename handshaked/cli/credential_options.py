"""The options of ``register`` that name the files of credentials, and which file belongs to which credential.

The i-th ``--cert`` goes with the i-th ``--key``. A passphrase or an OCSP response belongs to the credential before it,
so that one encrypted key among several is possible; or to the credential of its number, if there is one for each.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from handshaked.registry.settings import CREDENTIAL

PKCS12 = "pkcs12"
_CERTIFICATE, _KEY, *_ADDED = (file.name for file in CREDENTIAL)
BEGINNINGS = (_CERTIFICATE, _KEY, PKCS12)
"""The options that begin a credential, or continue its beginning."""
_FLAGS = {file.name: file.flag for file in CREDENTIAL}


class CredentialOption(argparse.Action):
    """Appends the path to its list, and option and path to ``credential_files``, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """As ``argparse.Action``."""
        namespace.credential_files = [*getattr(namespace, "credential_files", ()), (self.dest, values)]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def given_credentials(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Return the files of each credential by their kind; a usage error ends the program."""
    certificates, keys, bundles = arguments.certificate, arguments.key, arguments.pkcs12
    if len(certificates) != len(keys):
        arguments.parser.error("each --cert requires a --key")
    credentials = [{_CERTIFICATE: one, _KEY: key} for one, key in zip(certificates, keys, strict=True)]
    credentials += [{_CERTIFICATE: one} for one in bundles]
    for kind in _ADDED:
        for number, path in _numbered(arguments, kind, len(credentials)).items():
            credentials[number][kind] = path
    return credentials


def _numbered(arguments: argparse.Namespace, kind: str, count: int) -> dict[int, str]:
    """Return the files of `kind`, by the numbers of the credentials (of `count`) that they belong to."""
    paths = getattr(arguments, kind)
    found: dict[int, str] = {}
    seen = dict.fromkeys(BEGINNINGS, 0)
    before = None
    for option, path in getattr(arguments, "credential_files", ()):
        if option in seen:
            before = seen[option] + (len(arguments.certificate) if option == PKCS12 else 0)
            seen[option] += 1
        elif option == kind and before is not None:
            found.setdefault(before, path)
    if len(found) == len(paths):
        return found
    if len(paths) == count:
        return dict(enumerate(paths))
    return arguments.parser.error(  # type: ignore[no-any-return] # it does not return
        f"give each {_FLAGS[kind]} after the --key or --pkcs12 that it belongs to, or one for each credential"
    )
