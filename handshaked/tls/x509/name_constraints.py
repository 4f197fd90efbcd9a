"""Name constraints of authorities on the names of certificates below them (RFC 5280 section 4.2.1.10)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509 import certificates as cert
from handshaked.tls.x509 import der
from handshaked.tls.x509.host_names import is_host_name
from handshaked.tls.x509.parsing import shown

_Subtrees = dict[type[x509.GeneralName], list[Any]]
"""Subtrees by the form of name that they contain, each as its ``_Form`` prepares it."""

_OID = bytes.fromhex("0603551d1e")
_EXTENSIONS = 0xA3
_INTERNATIONAL_MAILBOX = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")
"""SmtpUTF8Mailbox: an otherName that constraints on mail addresses apply to (RFC 9598 section 6)."""


def check_names(path: cert.Path) -> None:
    """Raise PeerError if a name in a path, leaf first, violates constraints of an authority above it.

    RFC 5280 section 6.1.3 (b) and (c): intermediates that issued themselves are exempt.
    """
    for position, authority in enumerate(path):
        if position == 0 or (constraints := _constraints_of(authority)) is None:
            continue
        _check_no_distances(authority)
        permitted, excluded = _by_form(constraints.permitted_subtrees), _by_form(constraints.excluded_subtrees)
        for below, certificate in enumerate(path[:position]):
            if below == 0 or certificate.issuer != certificate.subject:
                for name in (*_names_of(certificate), *(_common_names_of(certificate) if below == 0 else ())):
                    if (wrong := _violation(name, permitted, excluded)) is not None:
                        raise _refused(certificate, authority, wrong)


def _refused(certificate: x509.Certificate, authority: x509.Certificate, wrong: str) -> PeerError:
    return PeerError(
        Alert.BAD_CERTIFICATE,
        f"the certificate of {cert.subject(certificate)} violates a name constraint of {cert.subject(authority)}:"
        f" {wrong}",
    )


def _constraints_of(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _check_no_distances(authority: x509.Certificate) -> None:
    """Refuse ``minimum`` and ``maximum`` of subtrees, as RFC 5280 requires; `cryptography` drops them."""
    *_, last = der.tbs_fields(authority.public_bytes(Encoding.DER))
    if last[0] != _EXTENSIONS:
        return
    (extensions,) = der.parts(last)
    for extension in der.parts(extensions):
        kind, *_, value = der.parts(extension)
        if kind == _OID:
            content = next(der.parts(b"\x30" + value[1:]))  # the OCTET STRING contains the value
            for subtrees in der.parts(content):
                if any(len(list(der.parts(subtree))) > 1 for subtree in der.parts(subtrees)):
                    raise PeerError(
                        Alert.BAD_CERTIFICATE,
                        f"name constraints of {cert.subject(authority)} have a minimum or maximum distance,"
                        " which RFC 5280 does not allow",
                    )


def _names_of(certificate: x509.Certificate) -> Iterator[x509.GeneralName]:
    """Yield the names that constraints apply to: the alternative names, the subject, and mail addresses in it."""
    with suppress(x509.ExtensionNotFound):
        yield from certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if subject := list(certificate.subject):
        yield x509.DirectoryName(certificate.subject)
    for attribute in subject:
        if attribute.oid == NameOID.EMAIL_ADDRESS:
            yield x509.RFC822Name(str(attribute.value))


def _common_names_of(leaf: x509.Certificate) -> Iterator[x509.GeneralName]:
    """Yield the common names that look like host names, if there is no other DNS name, as OpenSSL and GnuTLS do.

    They are not names of a server, but a peer rule or the consumer may go by a client's.
    """
    if any(isinstance(name, x509.DNSName) for name in _names_of(leaf)):
        return
    for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if "." in (text := str(attribute.value)) and is_host_name(text):
            yield x509.DNSName(text)


def _violation(name: x509.GeneralName, permitted: _Subtrees, excluded: _Subtrees) -> str | None:
    """Return how a name violates constraints, or None."""
    form = x509.RFC822Name if _is_international_mailbox(name) else type(name)
    inside, outside = permitted.get(form, ()), excluded.get(form, ())
    if not inside and not outside:
        return None
    what = f"the name {_text(name)}"
    if form not in _FORMS or form is not type(name) or (comparable := _FORMS[form].name(name.value)) is None:
        return f"{what} cannot be compared with the constraints on names of its form"
    contains = _FORMS[form].contains
    if any(contains(subtree, comparable) for subtree in outside) or _overlaps(name, outside):
        return f"{what} is excluded"
    if inside and not any(contains(subtree, comparable) for subtree in inside):
        return f"{what} is not permitted"
    return None


def _is_international_mailbox(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.OtherName) and name.type_id == _INTERNATIONAL_MAILBOX


def _text(name: x509.GeneralName) -> str:
    """Return a name, fit for a log."""
    return shown(name.value.rfc4514_string() if isinstance(name, x509.DirectoryName) else str(name.value))


def _by_form(subtrees: Iterable[x509.GeneralName] | None) -> _Subtrees:
    """Return the subtrees of each form, ready to be compared."""
    found: _Subtrees = {}
    for subtree in subtrees or ():
        form = type(subtree)
        found.setdefault(form, []).append(_FORMS[form].subtree(subtree.value) if form in _FORMS else None)
    return found


def _subtree_of_hosts(text: str) -> tuple[str, str]:
    """Return the host name that a subtree contains besides those with the suffix, and the suffix.

    A leading dot, which RFC 5280 has for URIs only, needs at least one label before it: as OpenSSL, Go and GnuTLS have
    it. The empty subtree contains everything.
    """
    base = text.lower()
    return base, base if base.startswith(".") or not base else f".{base}"


def _exact_subtree_of_hosts(text: str) -> tuple[str, str | None]:
    """Return the same for URIs and mail addresses: one host, or all in the domain after a leading dot."""
    base = text.lower()
    return base, base if base.startswith(".") or not base else None


def _contains_host(subtree: tuple[str, str | None], host: str) -> bool:
    exact, suffix = subtree
    return host == exact or (suffix is not None and host.endswith(suffix))


def _overlaps(name: x509.GeneralName, excluded: Iterable[tuple[str, str]]) -> bool:
    """Return whether a wildcard stands for an excluded host name, too."""
    if not isinstance(name, x509.DNSName) or not name.value.startswith("*."):
        return False
    parent = name.value[2:].lower()
    return any(label and parent == rest for label, _, rest in (base.partition(".") for base, _ in excluded))


def _host(text: str) -> str | None:
    """Return a host name; None with a trailing dot, which names in certificates do not have (RFC 1034 section 3.5)."""
    return None if text.endswith(".") else text.lower()


def _host_of_uri(uri: str) -> str | None:
    """Return the host of a URI (RFC 3986 section 3.2); None if there is none, or an IP address."""
    _, _, rest = uri.partition("://")
    for end in "/?#\\":  # no URI has a backslash, but browsers take it for a slash
        rest = rest.partition(end)[0]
    host = rest.rpartition("@")[2].partition(":")[0].lower().removesuffix(".")
    return host if is_host_name(host) else None


def _mailbox(text: str) -> tuple[str, str] | None:
    """Return the local part and the host of a mail address."""
    local, at, host = text.rpartition("@")
    return (local, host.lower()) if at else None


def _subtree_of_mailboxes(text: str) -> tuple[str | None, tuple[str, str | None]]:
    """Return the local part, or None for any, and the hosts."""
    local, at, hosts = text.rpartition("@")
    return local if at else None, _exact_subtree_of_hosts(hosts)


def _contains_mailbox(subtree: tuple[str | None, tuple[str, str | None]], mailbox: tuple[str, str]) -> bool:
    return subtree[0] in (None, mailbox[0]) and _contains_host(subtree[1], mailbox[1])


def _directory(name: x509.Name) -> tuple[frozenset[tuple[str, str]], ...]:
    """Return a name to compare: without case and repeated spaces (RFC 5280 section 7.1, as OpenSSL does)."""
    return tuple(
        frozenset((each.oid.dotted_string, " ".join(str(each.value).split()).lower()) for each in parts)
        for parts in name.rdns
    )


class _Form(NamedTuple):
    """Functions for names of one form: prepare a subtree, prepare a name (None: incomparable), test containment."""

    subtree: Callable[[Any], Any]
    name: Callable[[Any], Any]
    contains: Callable[[Any, Any], bool]


_FORMS: dict[type[x509.GeneralName], _Form] = {
    x509.DNSName: _Form(_subtree_of_hosts, _host, _contains_host),
    x509.UniformResourceIdentifier: _Form(_exact_subtree_of_hosts, _host_of_uri, _contains_host),
    x509.RFC822Name: _Form(_subtree_of_mailboxes, _mailbox, _contains_mailbox),
    x509.IPAddress: _Form(lambda network: network, lambda address: address, lambda network, ip: ip in network),
    x509.DirectoryName: _Form(_directory, _directory, lambda subtree, name: name[: len(subtree)] == subtree),
}
