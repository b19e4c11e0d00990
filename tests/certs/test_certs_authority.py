from __future__ import annotations

import dataclasses
import ipaddress
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store

from s2connect.certs.authority import (
    CA_NOT_AFTER,
    FIRST_CLOCK,
    LEAF_VALIDITY,
    RENEW_BEFORE,
    CertificateAuthority,
    ServerIdentity,
    warned_from,
)
from s2connect.certs.chain import CapturedChain
from s2connect.errors import ConfigurationError
from tests.certs.example_certificates import make, make_leaf, make_root, now

NAMES = ["heatpump-1.local", "192.168.1.20", "fd00::20"]
JANUARY = datetime(2026, 1, 10, 12, tzinfo=UTC)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not there")


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("Heat pump in the cellar", now=now())


@pytest.fixture(scope="module")
def identity(authority: CertificateAuthority) -> ServerIdentity:
    return authority.issue(NAMES, now=now())


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


@needs_openssl
@pytest.mark.rule("TRUST-02")
def test_openssl_accepts_the_leaf_for_a_server_of_its_names_only(
    authority: CertificateAuthority, identity: ServerIdentity, tmp_path: Path
) -> None:
    root, leaf = tmp_path / "root.pem", tmp_path / "leaf.pem"
    root.write_bytes(authority.to_pem())
    leaf.write_bytes(identity.chain_pem)
    verify: list[str | Path] = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root]
    openssl(*verify, "-verify_hostname", "heatpump-1.local", leaf)
    openssl(*verify, "-verify_ip", "192.168.1.20", leaf)
    openssl(*verify, "-verify_ip", "fd00::20", leaf)
    with pytest.raises(subprocess.CalledProcessError):
        openssl(*verify, "-verify_hostname", "heatpump-2.local", leaf)


@needs_openssl
@pytest.mark.rule("TRUST-02")
def test_the_extensions_are_those_of_the_rule(
    authority: CertificateAuthority, identity: ServerIdentity, tmp_path: Path
) -> None:
    root, leaf = tmp_path / "root.pem", tmp_path / "leaf.pem"
    root.write_bytes(authority.to_pem())
    leaf.write_bytes(identity.chain_pem)
    extensions = "basicConstraints,keyUsage,extendedKeyUsage,subjectAltName"
    text = " ".join(openssl("x509", "-in", root, "-noout", "-ext", extensions).split())
    assert "Basic Constraints: critical CA:TRUE, pathlen:0" in text
    assert "X509v3 Key Usage: critical Certificate Sign" in text
    text = " ".join(openssl("x509", "-in", leaf, "-noout", "-ext", extensions).split())
    assert "Basic Constraints: critical CA:FALSE" in text
    assert "Extended Key Usage: TLS Web Server Authentication" in text
    assert "Key Usage: critical Digital Signature" in text
    assert "DNS:heatpump-1.local, IP Address:192.168.1.20, IP Address:FD00:0:0:0:0:0:0:20" in text


@needs_openssl
@pytest.mark.rule("TRUST-07", "HMAC-02")
def test_fingerprints_are_those_that_openssl_prints(
    authority: CertificateAuthority, identity: ServerIdentity, tmp_path: Path
) -> None:
    for pem, fingerprint in (
        (authority.to_pem(), authority.fingerprint),
        (identity.chain_pem, identity.leaf_fingerprint),
    ):
        file = tmp_path / "one.pem"
        file.write_bytes(pem)
        printed = openssl("x509", "-in", file, "-noout", "-fingerprint", "-sha256").strip().partition("=")[2]
        assert bytes.fromhex(printed.replace(":", "")) == fingerprint
    assert identity.ca_fingerprint == authority.fingerprint


@pytest.mark.rule("TRUST-02")
def test_a_strict_verifier_accepts_the_chain(authority: CertificateAuthority, identity: ServerIdentity) -> None:
    leaf, root = x509.load_pem_x509_certificates(identity.chain_pem)
    assert root == authority.certificate
    for subject in (x509.DNSName(NAMES[0]), x509.IPAddress(ipaddress.ip_address(NAMES[1]))):
        PolicyBuilder().store(Store([root])).time(now()).build_server_verifier(subject).verify(leaf, [])


@pytest.mark.rule("TRUST-01")
def test_validity() -> None:
    authority = CertificateAuthority.create("a", now=JANUARY)
    identity = authority.issue(["a.local"], now=JANUARY)
    assert authority.certificate.not_valid_after_utc == CA_NOT_AFTER
    assert identity.not_valid_before == JANUARY - timedelta(days=1), "for clocks that are slow"
    # The shortest six months of a calendar, September to February, have 181 days.
    assert identity.not_valid_after - identity.not_valid_before == LEAF_VALIDITY <= timedelta(days=181)


@pytest.mark.rule("TRUST-01")
def test_a_leaf_is_renewed_before_it_expires() -> None:
    identity = CertificateAuthority.create("a", now=JANUARY).issue(["a.local"], now=JANUARY)
    due = identity.not_valid_after - RENEW_BEFORE
    assert not identity.needs_renewal(JANUARY)
    assert not identity.needs_renewal(due - timedelta(seconds=1))
    assert identity.needs_renewal(due)
    assert identity.needs_renewal(identity.not_valid_after + timedelta(days=1))


WRONG_CLOCKS = [datetime(1970, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, 3, tzinfo=UTC), datetime(2150, 7, 1, tzinfo=UTC)]


@pytest.mark.rule("TRUST-01", "TRUST-04")
@pytest.mark.parametrize("wrong", WRONG_CLOCKS, ids=lambda clock: str(clock.year))
def test_a_clock_that_is_wrong_by_decades_heals_once_it_is_right(wrong: datetime) -> None:
    authority = CertificateAuthority.create("a", now=wrong)
    first = authority.issue(["a.local"], now=wrong)
    assert not first.needs_renewal(wrong), "not again and again while the clock is wrong"
    assert first.needs_renewal(JANUARY)
    healed = authority.issue(["a.local"], now=JANUARY)
    assert healed.ca_fingerprint == first.ca_fingerprint, "peers pin it (TRUST-06)"
    leaf, root = (c.public_bytes(serialization.Encoding.DER) for c in x509.load_pem_x509_certificates(healed.chain_pem))
    CapturedChain(leaf, root, "192.168.1.20").check_self_signed("a.local", JANUARY)
    assert not healed.needs_renewal(JANUARY)


@pytest.mark.rule("TRUST-01")
def test_a_clock_that_cannot_be_right_replaces_no_leaf_of_a_better_one() -> None:
    identity = CertificateAuthority.create("a", now=JANUARY).issue(["a.local"], now=JANUARY)
    assert not identity.needs_renewal(datetime(1970, 1, 1, tzinfo=UTC))
    assert not identity.needs_renewal(FIRST_CLOCK - timedelta(seconds=1))
    # One that may be right does: the leaf is from its future.
    assert identity.needs_renewal(FIRST_CLOCK)


def test_a_leaf_of_a_wrong_clock_is_renewed_by_the_same_clock() -> None:
    start = datetime(1970, 1, 2, tzinfo=UTC)
    identity = CertificateAuthority.create("a", now=start).issue(["a.local"], now=start)
    assert not identity.needs_renewal(start + timedelta(days=90))
    assert identity.needs_renewal(start + LEAF_VALIDITY)


@pytest.mark.rule("TRUST-09")
def test_a_ca_of_another_time_is_named_with_what_helps() -> None:
    for start, end, word in (
        (timedelta(days=-20_000), timedelta(days=-11_000), "made while the clock was wrong"),
        (timedelta(days=-60), timedelta(days=-1), "the clock of this machine says"),
    ):
        root = make_root(start=start, end=end)
        authority = CertificateAuthority.load(root.pem, root.key_pem)
        with pytest.raises(ConfigurationError, match=word) as caught:
            authority.issue(["a.local"], now=now())
        assert "s2connect certificate --new-ca" in caught.value.hint


def test_a_short_lived_certificate_of_an_operator_is_not_always_due() -> None:
    leaf = make_leaf(make_root(), start=timedelta(0), end=timedelta(days=6))
    identity = ServerIdentity.load(leaf.pem, leaf.key_pem)
    assert not identity.needs_renewal(now() + timedelta(days=3))
    assert identity.needs_renewal(now() + timedelta(days=4, minutes=1))


def test_a_leaf_does_not_outlive_its_ca() -> None:
    root = make_root(end=timedelta(days=40))
    authority = CertificateAuthority.load(root.pem, root.key_pem)
    assert authority.issue(["a.local"], now=now()).not_valid_after == authority.certificate.not_valid_after_utc


def test_leaves_have_keys_of_their_own_and_the_ca_has_another(authority: CertificateAuthority) -> None:
    first, second = (authority.issue(["a.local"], now=now()) for _ in range(2))
    assert len({first.key_pem, second.key_pem, authority.key_pem()}) == 3
    assert first.leaf_fingerprint != second.leaf_fingerprint


def test_a_ca_named_like_the_host_is_told_apart_from_the_leaf() -> None:
    identity = CertificateAuthority.create("a.local", now=now()).issue(["a.local"], now=now())
    leaf = x509.load_pem_x509_certificate(identity.chain_pem)
    assert leaf.subject != leaf.issuer


@pytest.mark.parametrize("name", ["", "x" * 200, "ö" * 60, "\x1b[31mred\n", "Wärmepumpe ☀"])
def test_any_name_makes_a_ca(name: str) -> None:
    authority = CertificateAuthority.create(name, now=now())
    text = authority.certificate.subject.rfc4514_string()
    assert text.isprintable()
    assert len(text) < 150


def test_names_are_written_as_they_travel(authority: CertificateAuthority) -> None:
    identity = authority.issue(
        ["Pumpe.LOCAL.", "wärme.local", "pumpe.local", "fe80::1%eth0", "x" * 60 + ".local"], now=now()
    )
    assert identity.names == ("pumpe.local", "wärme.local".encode("idna").decode(), "x" * 60 + ".local", "fe80::1")


@pytest.mark.parametrize(
    "names", [[], [""], ["a b"], ["a.local", "https://a.local/"], ["*"], ["x" * 64], ["a\n"], ["ö" * 80]]
)
def test_what_is_no_name_is_refused(authority: CertificateAuthority, names: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        authority.issue(names, now=now())


def test_a_ca_is_read_back(authority: CertificateAuthority) -> None:
    again = CertificateAuthority.load(authority.to_pem(), authority.key_pem())
    assert again.certificate == authority.certificate
    leaf = x509.load_pem_x509_certificate(again.issue(["a.local"], now=now()).chain_pem)
    leaf.verify_directly_issued_by(authority.certificate)


def test_what_is_not_our_ca_is_refused(authority: CertificateAuthority) -> None:
    other = CertificateAuthority.create("other", now=now())
    no_ca = make("no ca")
    for cert_pem, key_pem, word in (
        (b"junk", authority.key_pem(), "certificate of the CA cannot be read"),
        (authority.to_pem(), b"junk", "private key cannot be read"),
        (authority.to_pem(), other.key_pem(), "does not belong"),
        (no_ca.pem, no_ca.key_pem, "not that of a CA"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            CertificateAuthority.load(cert_pem, key_pem)


@pytest.mark.rule("SEC-01")
def test_no_repr_shows_a_key(authority: CertificateAuthority, identity: ServerIdentity) -> None:
    for thing in (authority, identity):
        assert "PRIVATE" not in repr(thing)
        assert "_key" not in repr(thing)
        assert "key_pem" not in repr(thing)


def test_the_certificate_of_an_operator() -> None:
    root = make_root("Company CA")
    leaf = make_leaf(root, "cem.example.com", "CEM2.example.com")
    identity = ServerIdentity.load(leaf.chain_pem(), leaf.key_pem)
    assert identity.names == ("cem.example.com", "cem2.example.com")
    assert identity.ca_fingerprint is None
    assert identity.chain_pem == leaf.chain_pem()
    assert identity.not_valid_after == leaf.certificate.not_valid_after_utc


def test_a_wrong_certificate_of_an_operator_is_named() -> None:
    root = make_root("Company CA")
    leaf = make_leaf(root, "cem.example.com")
    nameless = make("cem.example.com")
    locked = leaf.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"geheim")
    )
    for chain_pem, key_pem, word in (
        (b"", leaf.key_pem, "no certificate that can be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", leaf.key_pem, "no certificate that can be"),
        (leaf.chain_pem(), b"", "private key cannot be read"),
        (leaf.chain_pem(), locked, "pass phrase"),
        (leaf.chain_pem(), nameless.key_pem, "does not belong"),
        (root.pem + leaf.pem, leaf.key_pem, "not the first"),
        (nameless.pem, nameless.key_pem, "names no host"),
    ):
        with pytest.raises(ConfigurationError, match=word) as caught:
            ServerIdentity.load(chain_pem, key_pem)
        assert "PRIVATE" not in str(caught.value)


def test_an_identity_cannot_be_changed(identity: ServerIdentity) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.names = ()  # type: ignore[misc]


@pytest.mark.parametrize(("life", "before"), [(6, 1.0), (90, 15.0), (180, 30.0), (397, 30.0)])
def test_the_end_of_a_certificate_is_warned_of_once_half_of_the_time_for_renewal_has_passed(
    life: int, before: float
) -> None:
    end = JANUARY + timedelta(days=life)
    assert warned_from(JANUARY, end) == end - timedelta(days=before)
