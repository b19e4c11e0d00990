"""Setting up a state directory."""

from __future__ import annotations

import pytest

from s2connect.errors import UsageError
from s2connect.service.setup import host_to_keep


@pytest.mark.rule("VER-04")
@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("wärmepumpe.local", "waermepumpe.local"),
        ("Große Küche.LOCAL", "grosse-kueche.local"),
        ("wärmepumpe.example.org", "wärmepumpe.example.org"),
        ("Ems.local", "Ems.local"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_local_name_is_spelled_in_ascii(host: str, kept: str) -> None:
    assert host_to_keep(host) == kept


def test_a_local_name_without_such_a_spelling_is_refused() -> None:
    with pytest.raises(UsageError, match="no spelling in ASCII"):
        host_to_keep("热泵.local")
