"""The line of ``status`` about the certificate."""

from __future__ import annotations

import pytest

from s2connect.cli.show import certificate_line
from s2connect.endpoint.certificate import CertificateFacts


@pytest.mark.parametrize(
    ("late", "expired", "own_ca", "begin", "advice"),
    [
        (False, False, False, "valid until", ""),
        (True, False, False, "valid until", "s2connect reload"),
        (True, False, True, "valid until", "was not renewed"),  # by the service, which had a month
        (True, True, False, "EXPIRED since", "s2connect reload"),
    ],
)
def test_the_operator_is_advised_to_renew_in_time(
    late: bool, expired: bool, own_ca: bool, begin: str, advice: str
) -> None:
    leaf = CertificateFacts("AA", "2026-01-01T00:00:00Z", "2026-05-01T00:00:00Z", expired, late)
    line = certificate_line(leaf, own_ca=own_ca)
    assert line.startswith(begin)
    assert advice in line
    assert (line == "valid until 2026-05-01 00:00") == (not advice)
