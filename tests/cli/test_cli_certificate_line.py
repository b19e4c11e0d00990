"""The line of ``status`` about the certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from s2connect.cli.show import certificate_line
from s2connect.endpoint.certificate import CertificateFacts
from s2connect.web.advice import of_certificate

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "own_ca", "begin", "advised"),
    [
        (90, False, "valid until", False),
        (31, False, "valid until", False),
        (25, False, "valid until", True),
        (10, False, "valid until", True),
        (10, True, "valid until", False),  # the service renews it
        (-1, False, "EXPIRED since", True),
    ],
)
def test_the_operator_is_advised_to_renew_in_time(days: int, own_ca: bool, begin: str, advised: bool) -> None:
    end = NOW + timedelta(days=days)
    leaf = CertificateFacts("AA", "2026-01-01T00:00:00Z", end.strftime("%Y-%m-%dT%H:%M:%SZ"), days < 0)
    line = certificate_line(leaf, NOW, own_ca=own_ca)
    assert line.startswith(begin)
    assert ("s2connect reload" in line) == advised
    assert bool(of_certificate(days * 86_400.0, own_ca=own_ca)) == advised, "the page says so, too"
