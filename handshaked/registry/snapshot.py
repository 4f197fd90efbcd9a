"""The registrations at one instant, indexed for handshakes, and the one function that selects among them."""

from collections.abc import Iterable
from dataclasses import dataclass

from handshaked.errors import Alert, HandshakeError, PeerError
from handshaked.model import Caller
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.names import lookup_names, show_alpn
from handshaked.registry.registration import NO_ALPN, CredentialReference, Registration


@dataclass(frozen=True, slots=True)
class Query:
    """Facts known when a credential must be selected.

    ``alpns`` are the client's, in its order (empty: it sends none, which only TCP allows). ``signature_schemes`` None
    asks without a client: any key will do. The caller may set limits: ``served_alpns`` (empty: all), ``registration``,
    ``credential`` (SHA-256 of the leaf).
    """

    caller: Caller
    server_name: str | None
    alpns: tuple[bytes, ...]
    signature_schemes: tuple[int, ...] | None = None
    served_alpns: tuple[bytes, ...] = ()
    registration: str | None = None
    credential: bytes | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The result of a selection: the registration, the application protocol, and the credential to authenticate with.

    ``alpn`` is empty for a client that sends none.
    """

    registration: Registration
    alpn: bytes
    credential: CredentialReference


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A registration whose connections ``handshaked-demux`` forwards to a server with a certificate of its own."""

    registration: Registration
    alpn: bytes


Answer = Selection | Forwarded | HandshakeError


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reason for which a registration was selected or not."""

    registration: Registration
    matched_name: str | None
    chosen: bool
    reason: str


class Snapshot:
    """An immutable set of registrations. ``with_changes`` builds the next one."""

    __slots__ = ("_by_id", "_by_name", "_by_pair", "_by_server_name", "generation")

    def __init__(self, registrations: Iterable[Registration] = (), generation: int = 0) -> None:
        self._by_id: dict[int, Registration] = {}
        self._by_name: dict[str, Registration] = {}
        self._by_pair: dict[tuple[str | None, bytes], Registration] = {}
        self._by_server_name: dict[str | None, tuple[Registration, ...]] = {}
        self.generation = generation
        for registration in registrations:
            self._add(registration)

    def with_changes(self, changed: Iterable[Registration], removed: Iterable[int], generation: int) -> "Snapshot":
        """Return a new snapshot with `changed` added or replaced, and the registrations with ids `removed` removed."""
        new = Snapshot(generation=generation)
        new._by_id = self._by_id.copy()
        new._by_name = self._by_name.copy()
        new._by_pair = self._by_pair.copy()
        new._by_server_name = self._by_server_name.copy()
        changed = list(changed)
        for identity in [*removed, *(registration.id for registration in changed)]:
            new._discard(identity)
        for registration in changed:
            new._add(registration)
        return new

    def __len__(self) -> int:
        return len(self._by_id)

    def changes_since(self, older: "Snapshot") -> tuple[list[Registration], list[int]]:
        """Return the difference to `older`: the registrations that are new or changed, and the ids removed."""
        before = {one.id: one for one in older.registrations}
        changed = [one for identity, one in self._by_id.items() if before.get(identity) is not one]
        return changed, [identity for identity in before if identity not in self._by_id]

    @property
    def registrations(self) -> list[Registration]:
        """All registrations, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def named(self, name: str) -> Registration | None:
        """Return the registration called `name`, or None."""
        return self._by_name.get(name)

    def select(self, query: Query) -> Selection:
        """Select by the matching rules: may use and shares an ALPN; most specific name; the client's ALPN order;
        first credential the client can verify.

        Raises PeerError with the alert that the client is to get.
        """
        registration, alpn = self.route(query)
        return Selection(registration, alpn, _credential(registration, query))

    def route(self, query: Query) -> tuple[Registration, bytes]:
        """Return the registration and the application protocol that ``select`` would; a credential need not fit."""
        names = lookup_names(query.server_name)
        for name in names:
            for alpn in query.alpns or (NO_ALPN,):
                registration = self._by_pair.get((name, alpn))
                if registration is not None and _usable(registration, alpn, query):
                    return registration, alpn
        raise self._no_match(query, names)

    def explain(self, query: Query) -> tuple[Answer, list[Verdict]]:
        """Return the answer of ``select``, and why each registration whose names match was selected or not.

        For a registration that forwards, the answer is ``Forwarded``: its server chooses the certificate.
        """
        answer: Answer
        try:
            registration, alpn = self.route(query)
            if parse_delivery(registration.policy.deliver).way is Way.FORWARD:
                answer = Forwarded(registration, alpn)
            else:
                answer = Selection(registration, alpn, _credential(registration, query))
        except HandshakeError as error:
            answer = error
        matching = [
            (registration, name)
            for name in lookup_names(query.server_name)
            for registration in self._by_server_name.get(name, ())
        ]
        winning = None
        if isinstance(answer, Selection | Forwarded):
            winning = next(match for match in matching if match[0] is answer.registration)
        verdicts = []
        for match in matching:
            reason = "chosen" if match is winning else _reason(*match, query, answer, winning)
            verdicts.append(Verdict(*match, match is winning, reason))
        return answer, verdicts

    def _no_match(self, query: Query, names: tuple[str | None, ...]) -> HandshakeError:
        offered = ", ".join(map(show_alpn, query.alpns[:8])) or "none"
        if any(_allowed(registration, query) for name in names for registration in self._by_server_name.get(name, ())):
            served = f"server name {query.server_name!r}" if query.server_name else "clients without a server name"
            return PeerError(
                Alert.NO_APPLICATION_PROTOCOL, f"no registration serves {served} with any of the ALPNs: {offered}"
            )
        if query.server_name is None:
            return PeerError(
                Alert.MISSING_EXTENSION, "the client sent no server name and no registration serves any name"
            )
        return PeerError(Alert.UNRECOGNIZED_NAME, f"no registration serves the server name {query.server_name!r}")

    def _add(self, registration: Registration) -> None:
        self._by_id[registration.id] = registration
        self._by_name[registration.name] = registration
        for pair in registration.pairs:
            self._by_pair[pair] = registration
        for name in registration.server_names or (None,):
            self._by_server_name[name] = (*self._by_server_name.get(name, ()), registration)

    def _discard(self, identity: int) -> None:
        registration = self._by_id.pop(identity, None)
        if registration is None:
            return
        del self._by_name[registration.name]
        for pair in registration.pairs:
            del self._by_pair[pair]
        for name in registration.server_names or (None,):
            left = tuple(other for other in self._by_server_name[name] if other is not registration)
            if left:
                self._by_server_name[name] = left
            else:
                del self._by_server_name[name]


def _allowed(registration: Registration, query: Query) -> bool:
    return registration.allows(query.caller) and query.registration in (None, registration.name)


def _usable(registration: Registration, alpn: bytes, query: Query) -> bool:
    return _allowed(registration, query) and (not query.served_alpns or alpn in query.served_alpns)


def _credential(registration: Registration, query: Query) -> CredentialReference:
    schemes = query.signature_schemes
    for credential in registration.credentials:
        if query.credential not in (None, credential.leaf_digest):
            continue
        if schemes is None or any(scheme in schemes for scheme in credential.key_type.schemes):
            return credential
    raise PeerError(
        Alert.HANDSHAKE_FAILURE,
        f"no credential of registration {registration.name!r} fits the client's signature schemes "
        "or the credential asked for",
    )


def _reason(
    registration: Registration,
    name: str | None,
    query: Query,
    answer: Answer,
    winning: tuple[Registration, str | None] | None,
) -> str:
    if not registration.allows(query.caller):
        return f"{query.caller} may not use it"
    if query.registration not in (None, registration.name):
        return f"the caller asked for registration {query.registration!r}"
    shared = [alpn for alpn in query.alpns or (NO_ALPN,) if alpn in (registration.alpns or (NO_ALPN,))]
    if not shared:
        return "shares no ALPN with the client"
    if query.served_alpns and not any(alpn in query.served_alpns for alpn in shared):
        return "the caller does not serve the ALPN they share"
    if isinstance(answer, HandshakeError) or winning is None:
        return str(answer)
    if registration is winning[0]:
        return "chosen already by a more specific name"
    if name != winning[1]:
        return f"its name {name or '(any)'} is less specific than that of {winning[0].name!r}"
    return f"the client prefers ALPN {show_alpn(answer.alpn)} to {show_alpn(shared[0])}"
