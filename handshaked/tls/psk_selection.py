"""A server's selection among the PSKs that a client offers: session tickets and external PSKs (section 4.2.11)."""

import hashlib
from dataclasses import dataclass, field
from hmac import compare_digest

from handshaked.errors import Alert, PeerError
from handshaked.model import CipherSuite, ClientAuth
from handshaked.tls.client_hello import ClientHelloMessage
from handshaked.tls.codec import push_vector8, push_vector16
from handshaked.tls.codepoints import PskMode
from handshaked.tls.extensions import PskIdentity
from handshaked.tls.key_schedule import KeySchedule, profile_of
from handshaked.tls.parameters import ServerParameters
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.tickets import TicketContent, pull_ticket, ticket_digest


@dataclass(slots=True)
class SelectedPsk:
    """The selected PSK, external or of a session ticket; its binder is not checked yet."""

    index: int
    offered: PskIdentity
    key: bytes = field(repr=False)
    suite: CipherSuite
    external: ExternalPsk | None = None
    ticket: TicketContent | None = None

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The client certificate chain of the handshake that the ticket was issued in."""
        return self.ticket.chain if self.ticket is not None else ()


def ticket_binding(server_name: str | None, parameters: ServerParameters, *, quic: bool) -> bytes:
    """Return what a ticket is bound to: it is sealed with these bytes, and opens with the same ones only.

    Besides the context, that is how both sides are authenticated (RFC 8446 section 2.2: resumption continues the
    authentication of the first handshake), and the transport, as QUIC authenticates transport parameters, too.
    """
    verifier = parameters.client_verifier if parameters.client_auth is not ClientAuth.NONE else None
    return b"".join(
        (
            bytes([quic, parameters.credential is not None, parameters.psks is not None]),
            push_vector8((server_name or "").lower().encode("ascii")),
            push_vector8(parameters.alpn or b""),
            push_vector16((parameters.registration or "").encode()),
            parameters.owner.to_bytes(4),
            bytes([parameters.client_auth]),
            b"" if verifier is None else verifier.trust,
        )
    )


def select_psk(
    hello: ClientHelloMessage,
    parameters: ServerParameters,
    retry_suite: CipherSuite | None,
    now: float,
    *,
    quic: bool,
) -> SelectedPsk | None:
    """Return the first usable PSK, or None. `retry_suite` is that of the HelloRetryRequest, if there was one."""
    if hello.psks is None or PskMode.PSK_DHE_KE not in (hello.psk_modes or b""):
        return None
    suites = parameters.cipher_suites if retry_suite is None else (retry_suite,)
    usable = [suite for suite in suites if suite in hello.cipher_suites]
    binding = ticket_binding(hello.server_name, parameters, quic=quic)
    for index, offered in enumerate(hello.psks.identities):
        selected = _select_external(index, offered, parameters, usable)
        if selected is None:
            selected = _select_ticket(index, offered, binding, parameters, usable, now)
        if selected is not None:
            # Verifying the chain in a ticket takes long, so that is done for one of the tickets only.
            return selected if _still_trusted(selected.ticket, parameters, now) else None
    return None


def _select_external(
    index: int, offered: PskIdentity, parameters: ServerParameters, usable: list[CipherSuite]
) -> SelectedPsk | None:
    psk = parameters.psks.find(offered.identity) if parameters.psks is not None else None
    if psk is None:
        return None
    for suite in usable:
        if profile_of(suite).name == psk.hash_name:
            return SelectedPsk(index, offered, psk.key, suite, external=psk)
    return None


def _select_ticket(
    index: int,
    offered: PskIdentity,
    binding: bytes,
    parameters: ServerParameters,
    usable: list[CipherSuite],
    now: float,
) -> SelectedPsk | None:
    if parameters.tickets is None:
        return None
    ticket = pull_ticket(offered.identity, parameters.tickets.keys, binding, now)
    if ticket is None:
        return None
    if ticket.suite in usable:
        return SelectedPsk(index, offered, ticket.psk, ticket.suite, ticket=ticket)
    profile = profile_of(ticket.suite)
    for suite in usable:
        # Section 4.2.11: any cipher suite with the same hash is allowed.
        if profile_of(suite) is profile:
            return SelectedPsk(index, offered, ticket.psk, suite, ticket=ticket)
    return None


def _still_trusted(ticket: TicketContent | None, parameters: ServerParameters, now: float) -> bool:
    """Return whether the client certificate of a ticket would still be accepted."""
    if ticket is None:
        return True
    if not ticket.chain:
        return parameters.client_auth is not ClientAuth.REQUIRE
    if parameters.client_verifier is None:
        return False
    try:
        parameters.client_verifier.verify(ticket.chain, now)
    except PeerError:
        return False
    return True


def check_binder(schedule: KeySchedule, hello: ClientHelloMessage, selected: SelectedPsk) -> None:
    """Put the PSK into the schedule, and check the client's binder (section 4.2.11.2)."""
    psks = hello.psks
    if psks is None:
        return
    schedule.use_psk(selected.key)
    label = b"ext binder" if selected.external is not None else b"res binder"
    expected = schedule.binder(label, hello.raw[: -psks.binders_length])
    if not compare_digest(expected, psks.binders[selected.index]):
        # "If this value is not present or does not validate, the server MUST abort the handshake": section 6.2 requires
        # decrypt_error for "unable to correctly ... validate a Finished message or a PSK binder".
        raise PeerError(Alert.DECRYPT_ERROR, "invalid PSK binder")


def accepts_early_data(
    hello: ClientHelloMessage, selected: SelectedPsk, parameters: ServerParameters, now: float
) -> bool:
    """Return whether to accept early data: fresh, of the same context, not replayed (sections 4.2.10 and 8)."""
    accepted, ticket = parameters.early_data, selected.ticket
    if accepted is None or ticket is None or selected.index != 0 or not hello.early_data:
        return False
    if not ticket.max_early_data or selected.suite is not ticket.suite:
        return False
    if not compare_digest(ticket.early_context, early_context(parameters)):
        return False
    # Sections 4.2.11.1 and 8.3: compare the ticket ages of client and server.
    client_age = (selected.offered.obfuscated_age - ticket.age_add) % 2**32
    if abs(now * 1000 - ticket.issued - client_age) > accepted.window * 1000:
        return False
    expires = ticket.issued / 1000 + ticket.lifetime
    return accepted.guard.first_use(ticket_digest(selected.offered.identity), ticket.issued / 1000, expires, now)


def early_context(parameters: ServerParameters) -> bytes:
    """Return the digest of `EarlyData.context` that tickets contain; empty without early data."""
    if parameters.early_data is None:
        return b""
    return hashlib.sha256(parameters.early_data.context).digest()
