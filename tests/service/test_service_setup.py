"""Setting up a state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2connect import Deployment, Role
from s2connect.errors import ConfigurationError, UsageError
from s2connect.service.setup import host_to_keep, make


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


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost"])
def test_an_endpoint_that_listens_on_loopback_has_no_name_in_the_network(tmp_path: Path, bind: str) -> None:
    settings = {"deployment": Deployment.LAN, "host": None, "port": 8443, "bind": bind, "vault": "files"}
    assert make(tmp_path / "home", {"role": Role.RM}, settings).host == "localhost"


def test_an_address_to_listen_on_may_come_later_but_has_to_be_one(tmp_path: Path) -> None:
    settings = {"deployment": Deployment.LAN, "host": None, "port": 8443, "bind": "no such", "vault": "files"}
    with pytest.raises(ConfigurationError, match="no such: that is no address"):
        make(tmp_path / "home", {"role": Role.RM}, settings)
    assert not (tmp_path / "home").exists()
    assert make(tmp_path / "home", {"role": Role.RM}, settings | {"bind": "203.0.113.1"}).bind == "203.0.113.1"
