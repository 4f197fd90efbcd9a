"""2,000 generated chains: our verdict and OpenSSL's are the same, or a rule of the documentation explains why not.

``docs/explanation/certificate-checks.md`` has the rules, under "Stricter than the RFC" and "Compared with OpenSSL".
"""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from handshaked.errors import PeerError, UnreadableError
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_anchors
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import NOW, pem_block, root
from tests.interop.corpus import HOST, Chain, plain
from tests.interop.peculiarities import ALL, ALONE
from tests.interop.peers import OPENSSL

SEED = 12
COUNT = 2000
T = int(NOW.timestamp())
SECONDS = 300
STRANGER = root("stranger")

STRICTER = {
    "no curves other than P-256, P-384 and P-521": r"curve secp256k1 is not supported",
    "no RSA-PSS keys whose parameters fit no signature scheme": r"the RSA-PSS key is restricted to",
    "`digitalSignature` is required": r"has a key usage without digitalSignature",
    "defaults that are encoded": r"a default value is encoded in",
    "a path length without `cA`": r"path_length must be None when ca is False",
    "an extension that is present twice": r"Duplicate 1\.2\.3 extension found",
    "critical extensions other than": r"has the critical extension 2\.5\.29\.(31|36|54),",
    "names of the forms `x400Address` and `ediPartyName`": r"x400Address/EDIPartyName are not supported types",
    "the common name is not a server name": r"it has no subjectAltName",
    "network masks with gaps": r"Invalid netmask",
    "empty name constraints": r"At least one of permitted_subtrees and excluded_subtrees",
    "no SHA-224": r"unsupported algorithm \(1\.2\.840\.(113549\.1\.1\.14|10045\.4\.3\.1)\)",
    "differs from its certificate's subject in any byte": r"its issuer is CN=middle 0 \d+,O=TEST",
    "a wildcard that could stand for an excluded host name": r"the name \*\.[a-z.]+ is excluded",
    "a host name with a trailing dot": r"the name [a-z.]+\. cannot be compared",
}
"""Our reasons for refusing what OpenSSL accepts, by words of the documentation."""

MORE_LENIENT = {
    "can be an anchor": r"unable to get (local )?issuer certificate",
    "an authority for `anyExtendedKeyUsage`": r"unsuitable certificate purpose",
    "an intermediate can have its issuer's name": r"self-signed certificate in certificate chain",
}
"""OpenSSL's reasons for refusing what we accept, by words of the documentation."""

RULES = Path(__file__).parents[2] / "docs/explanation/certificate-checks.md"


def corpus() -> list[Chain]:
    """Return the chains: each peculiarity alone, for both purposes, then two at a time."""
    rng = random.Random(SEED)
    wanted = [[label] for label in ALL for _ in range(2)]
    others = [label for label in ALL if label != ALONE]  # it leaves nothing for others to change
    wanted += [rng.sample(others, 2) for _ in range(COUNT - len(wanted))]
    chains = []
    for number, labels in enumerate(wanted):
        chain = plain(number, rng, ("sslserver", "sslclient")[number % 2])
        for label in labels:
            ALL[label](chain)
        chain.labels.extend(labels)
        chain.make()
        chains.append(chain)
    return chains


def our_verdict(chain: Chain) -> str:
    """Return nothing if we accept a chain, else the reason."""
    encoded = (chain.made[0].der, *chain.untrusted)
    try:
        trust = read_trust_anchors(chain.anchors or [STRANGER.der], "anchors")
        lists = RevocationLists(
            [one for each in chain.lists for one in read_revocation_lists(each, "list")],
            required=chain.listed is not None,
        )
        if chain.purpose == "sslserver":
            ServerChainVerifier(trust, lists).verify(encoded, HOST, T)
        else:
            ClientChainVerifier(trust, lists).verify(encoded, T)
    except (PeerError, UnreadableError) as error:
        return str(error)
    return ""


def openssl_verdicts(chains: list[Chain], directory: Path) -> dict[int, str]:
    """Return OpenSSL's verdicts, by number: nothing if it accepts a chain, else the reason.

    One process verifies all chains for a purpose, with lists or without.
    """
    everything = {
        "anchors": [each for chain in chains for each in chain.anchors],
        "others": [each for chain in chains for each in chain.untrusted],
    }
    for stem, certificates in everything.items():
        text = b"".join(pem_block("CERTIFICATE", each) for each in dict.fromkeys(certificates))
        (directory / stem).write_bytes(text)
    lists = b"".join(pem_block("X509 CRL", each) for chain in chains for each in chain.lists)
    (directory / "lists").write_bytes(lists)
    groups: dict[tuple[str, bool], list[Chain]] = defaultdict(list)
    for chain in chains:
        (directory / str(chain.number)).write_bytes(pem_block("CERTIFICATE", chain.made[0].der))
        groups[chain.purpose, chain.listed is not None].append(chain)
    found: dict[int, str] = {}
    for (purpose, listed), group in groups.items():
        options = [
            "-purpose",
            purpose,
            "-auth_level",
            "2",
            "-attime",
            str(T),
            "-CAfile",
            "anchors",
            "-untrusted",
            "others",
        ]
        options += ["-verify_hostname", HOST] if purpose == "sslserver" else []
        options += ["-crl_check_all", "-CRLfile", "lists"] if listed else []
        command = ["openssl", "verify", *options, *(str(chain.number) for chain in group)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
        found |= _parsed(done.stdout) | _parsed(done.stderr)
    return found


def explained(reason: str, rules: dict[str, str]) -> list[str]:
    """Return the rules that explain a difference."""
    return [rule for rule, pattern in rules.items() if re.search(pattern, reason)]


@OPENSSL
@pytest.mark.slow
def test_differences_from_openssl_are_those_of_the_documentation(tmp_path: Path) -> None:
    chains = corpus()
    theirs = openssl_verdicts(chains, tmp_path)
    assert len(theirs) == len(chains) == COUNT
    used: Counter[str] = Counter()
    unexplained = []
    accepted = 0
    for chain in chains:
        ours, verdict = our_verdict(chain), theirs[chain.number]
        accepted += not ours
        if bool(ours) == bool(verdict):
            continue
        rules = explained(ours, STRICTER) if ours else explained(verdict, MORE_LENIENT)
        used.update(rules)
        if len(rules) != 1:
            unexplained.append((chain.labels, chain.purpose, ours, verdict, rules))
    assert unexplained == []
    assert set(used) == {*STRICTER, *MORE_LENIENT}
    text = " ".join(RULES.read_text().split()).lower()
    assert [rule for rule in used if rule.lower() not in text] == []
    assert COUNT / 4 < accepted < COUNT * 3 / 4


def _parsed(text: str) -> dict[int, str]:
    found: dict[int, str] = {}
    reasons: list[str] = []
    for line in text.splitlines():
        if ok := re.fullmatch(r"(\d+): OK", line):
            found[int(ok[1])] = ""
        elif bad := re.fullmatch(r"error (\d+): verification failed", line):
            found[int(bad[1])] = "; ".join(reasons) or "?"
            reasons = []
        elif line.startswith("error "):
            reasons.append(line.partition("lookup: ")[2] or line)
    return found
