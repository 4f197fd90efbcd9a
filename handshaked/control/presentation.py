"""Registrations and grants as plain values, for answers on the control socket and D-Bus; never a key."""

from collections.abc import Iterable
from typing import Any

from handshaked.registry.names import show_alpn
from handshaked.registry.registration import Grant, Registration
from handshaked.registry.settings import CREDENTIAL, POLICY, SCOPE, TRUST
from handshaked.registry.store import CredentialDetails

Result = dict[str, Any]


def shown_registration(
    registration: Registration, trust_paths: tuple[str, str], credentials: Iterable[CredentialDetails]
) -> Result:
    """Return `registration` with all its settings; `trust_paths` are the files of trust anchors and revocations."""
    access = registration.access
    scope = (registration.server_names, registration.alpns, sorted(access.uids), sorted(access.gids), access.kernel)
    return {
        "name": registration.name,
        "owner": registration.owner,
        **{setting.name: setting.type.show(value) for setting, value in zip(SCOPE, scope, strict=True)},
        "origin": registration.origin,
        "policy": {
            **{setting.name: setting.type.show(getattr(registration.policy, setting.name)) for setting in POLICY},
            **{setting.name: setting.type.show(path) for setting, path in zip(TRUST, trust_paths, strict=True)},
        },
        "credentials": [_shown_credential(one) for one in credentials],
    }


def shown_grant(grant: Grant) -> Result:
    """Return `grant`."""
    return {
        "id": grant.id,
        "uid": grant.uid,
        "gid": grant.gid,
        "server_names": list(grant.server_names),
        "alpns": [show_alpn(alpn) for alpn in grant.alpns],
        "allow_kernel": grant.kernel,
    }


def _shown_credential(details: CredentialDetails) -> Result:
    return {
        "key_type": details.reference.key_type.value,
        "sha256": details.reference.leaf_digest.hex(),
        "subject": details.subject,
        "not_before": details.not_before,
        "not_after": details.not_after,
        **{file.name: getattr(details.source, file.name) for file in CREDENTIAL},
    }
