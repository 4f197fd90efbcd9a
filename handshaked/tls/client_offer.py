"""The ClientHello that a client sends, also after a HelloRetryRequest, and what it offers."""

import os
from dataclasses import dataclass, field

from handshaked.errors import Alert, CallerError, PeerError, Status
from handshaked.model import CipherSuite
from handshaked.tls import extensions as ext
from handshaked.tls.codec import push_extension, push_message, push_vector8, push_vector16
from handshaked.tls.codepoints import LEGACY_VERSION, TLS_1_3, ExtensionType, HandshakeType, PskMode
from handshaked.tls.key_exchange import KeyShare, generate_key_share
from handshaked.tls.key_schedule import PROFILES, HashProfile, KeySchedule, profile_of
from handshaked.tls.parameters import ClientParameters
from handshaked.tls.resumption import ResumptionState, bindings, pull_resumption
from handshaked.tls.signatures import CERTIFICATE_SCHEMES, SUPPORTED_SCHEMES

_VERSIONS = push_extension(ExtensionType.SUPPORTED_VERSIONS, push_vector8(TLS_1_3.to_bytes(2)))
_SCHEMES = ext.push_u16_list(ExtensionType.SIGNATURE_ALGORITHMS, SUPPORTED_SCHEMES) + ext.push_u16_list(
    ExtensionType.SIGNATURE_ALGORITHMS_CERT, CERTIFICATE_SCHEMES
)
_PSK_MODES = push_extension(ExtensionType.PSK_KEY_EXCHANGE_MODES, push_vector8(bytes([PskMode.PSK_DHE_KE])))


_MAX_EXTENSIONS = 2**16 - 1
_MAX_PROTOCOLS = 255
_MAX_IDENTITY = 16 * 1024


@dataclass(slots=True)
class OfferedPsk:
    """A PSK that the client offers: external if `resumption` is None, else that of a session ticket."""

    identity: bytes
    key: bytes = field(repr=False)
    profile: HashProfile
    resumption: ResumptionState | None = None

    def psk_identity(self, now: float) -> ext.PskIdentity:
        """Return the PskIdentity; an external one has no age (RFC 8446 section 4.2.11)."""
        return ext.PskIdentity(self.identity, 0 if self.resumption is None else self.resumption.obfuscated_age(now))

    @property
    def binder_label(self) -> bytes:
        """The label of its binder key."""
        return b"ext binder" if self.resumption is None else b"res binder"


class ClientOffer:
    """A client's offer: checked parameters, generated key shares, selected PSKs. CallerError if invalid."""

    def __init__(self, parameters: ClientParameters, *, quic: bool, now: float) -> None:
        self._parameters = parameters
        self._quic = quic
        self._check_parameters()
        self.random = os.urandom(32)
        # RFC 8446 appendix D.4, middlebox compatibility, which QUIC does without (RFC 9001 section 8.4).
        self.session_id = b"" if quic else os.urandom(32)
        groups = parameters.key_shares or parameters.groups[:1]
        self.shares: dict[int, KeyShare] = {int(group): generate_key_share(group) for group in groups}
        self.bindings = bindings(parameters, quic=quic)
        self.psks = self._usable_psks(now)
        self.early_data = parameters.early_data and self._allows_early_data()
        self.extension_types: frozenset[int] = frozenset()

    def _check_parameters(self) -> None:
        parameters = self._parameters
        if parameters.verifier is not None and not parameters.server_name:
            raise _invalid("a verifier requires a server name")
        if not set(parameters.key_shares) <= set(parameters.groups) or not parameters.groups:
            raise _invalid("key_shares must be among groups, and groups must not be empty")
        if not parameters.cipher_suites:
            raise _invalid("no cipher suite to offer")
        if not all(0 < len(each) < 256 for each in parameters.alpns) or len(parameters.alpns) > _MAX_PROTOCOLS:
            raise _invalid(f"application protocols must be at most {_MAX_PROTOCOLS}, of 1 to 255 bytes each")
        if parameters.psk is not None and not 0 < len(parameters.psk.identity) <= _MAX_IDENTITY:
            raise _invalid(f"a PSK identity must have 1 to {_MAX_IDENTITY} bytes")
        if self._quic and (not parameters.alpns or parameters.transport_parameters is None):
            raise _invalid("QUIC requires an application protocol and transport parameters")

    def _usable_psks(self, now: float) -> list[OfferedPsk]:
        parameters = self._parameters
        psks = []
        state = pull_resumption(parameters.session_ticket) if parameters.session_ticket is not None else None
        if state is not None and self._fits(state, now):
            psks.append(OfferedPsk(state.ticket, state.psk, profile_of(state.suite), state))
        external = parameters.psk
        if external is not None:
            psks.append(OfferedPsk(external.identity, external.key, PROFILES[external.hash_name]))
        return psks

    def _fits(self, state: ResumptionState, now: float) -> bool:
        """Return whether a ticket applies: same name and binding, not expired (sections 2.2 and 4.6.1)."""
        parameters = self._parameters
        if not self.bindings.accepts(state.binding):
            return False
        if state.server_name != (parameters.server_name or "").encode() or now * 1000 >= state.expires:
            return False
        return any(profile_of(suite) is profile_of(state.suite) for suite in parameters.cipher_suites)

    def _allows_early_data(self) -> bool:
        state = self.psks[0].resumption if self.psks else None
        if state is None or not state.max_early_data or state.suite not in self._parameters.cipher_suites:
            return False
        return not state.alpn or state.alpn in self._parameters.alpns

    def retry(self, suite: CipherSuite) -> None:
        """Withdraw early data and PSKs of another hash after a HelloRetryRequest (sections 4.1.2 and 4.1.4)."""
        self.early_data = False
        self.psks = [psk for psk in self.psks if psk.profile is profile_of(suite)]

    def push(self, now: float, cookie: bytes = b"", schedule: KeySchedule | None = None) -> bytes:
        """Return the ClientHello; after a HelloRetryRequest, pass its cookie and the `schedule` with the transcript.

        CallerError if its extensions exceed 64 KiB; PeerError if that is due to the cookie.
        """
        extensions = self._extensions(cookie)
        lengths = [psk.profile.size for psk in self.psks]
        if self.psks:
            identities = [psk.psk_identity(now) for psk in self.psks]
            extensions.append(ext.push_offered_psks(identities, lengths))
        self.extension_types = ext.types_of(extensions)
        block = b"".join(extensions)
        if len(block) > _MAX_EXTENSIONS:
            reason = f"ClientHello with {len(block)} bytes of extensions, the limit is {_MAX_EXTENSIONS}"
            if cookie:
                raise PeerError(Alert.ILLEGAL_PARAMETER, f"a cookie of {len(cookie)} bytes makes a {reason}")
            raise _invalid(reason)
        suites = self._parameters.cipher_suites
        parts = (
            LEGACY_VERSION.to_bytes(2),
            self.random,
            push_vector8(self.session_id),
            push_vector16(b"".join(suite.to_bytes(2) for suite in suites)),
            b"\x01\x00",
            push_vector16(block),
        )
        message = push_message(HandshakeType.CLIENT_HELLO, b"".join(parts))
        if not self.psks:
            return message
        return message[: -sum(lengths) - len(lengths) - 2] + self._binders(message, lengths, schedule)

    def _binders(self, message: bytes, lengths: list[int], schedule: KeySchedule | None) -> bytes:
        """Return the binders of `message`, which has zeros in their place (section 4.2.11.2)."""
        partial = message[: -sum(lengths) - len(lengths) - 2]
        binders = b""
        for psk in self.psks:
            digest = psk.profile.new(partial).digest() if schedule is None else schedule.hash_with(partial)
            binders += push_vector8(psk.profile.binder(psk.profile.early_secret(psk.key), psk.binder_label, digest))
        return push_vector16(binders)

    def _extensions(self, cookie: bytes) -> list[bytes]:
        """Return all extensions but pre_shared_key, which must be the last."""
        parameters = self._parameters
        shares = b"".join(ext.push_key_share(each.group, each.public) for each in self.shares.values())
        extensions = [
            _VERSIONS,
            ext.push_u16_list(ExtensionType.SUPPORTED_GROUPS, parameters.groups),
            _SCHEMES,
            push_extension(ExtensionType.KEY_SHARE, push_vector16(shares)),
            _PSK_MODES,
        ]
        if parameters.server_name and ext.is_dns_name(parameters.server_name):
            extensions.insert(0, ext.push_server_name(parameters.server_name))
        if parameters.alpns:
            extensions.append(ext.push_alpn(parameters.alpns))
        if parameters.compressions:
            extensions.append(ext.push_compressions(parameters.compressions))
        if self._quic:
            body = parameters.transport_parameters or b""
            extensions.append(push_extension(ExtensionType.QUIC_TRANSPORT_PARAMETERS, body))
        elif parameters.record_size_limit is not None:
            limit = parameters.record_size_limit.to_bytes(2)
            extensions.append(push_extension(ExtensionType.RECORD_SIZE_LIMIT, limit))
        if self.early_data:
            extensions.append(push_extension(ExtensionType.EARLY_DATA, b""))
        if cookie:
            extensions.append(push_extension(ExtensionType.COOKIE, push_vector16(cookie)))
        return extensions


def _invalid(reason: str) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, Status.INVALID)
