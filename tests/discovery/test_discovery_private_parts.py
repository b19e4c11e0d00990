"""Undocumented parts of zeroconf that the package uses: each test names one and fails when it moves."""

from __future__ import annotations

import logging

import pytest
from zeroconf import ServiceInfo, Zeroconf

from s2connect.discovery import advertise
from s2connect.discovery.txt import SERVICE_TYPE, SUBTYPES
from s2connect.model.common import Role
from tests.discovery.advertisements import advertisement


@pytest.mark.rule("DISC-01")
def test_zeroconf_keeps_services_by_the_attribute_key_of_their_info() -> None:
    """``ServiceInfo.key``: with another one, a second info of the same instance is registered beside the first."""
    shown = advertisement("ems.local")
    infos = advertise._infos(shown, ["127.0.0.1"])
    assert set(infos) == {None, *shown.roles}, "zeroconf's ServiceInfo.key cannot be set any more"
    core = Zeroconf(interfaces=["127.0.0.1"])
    try:
        for info in infos.values():
            core.registry.async_add(info)  # raises ServiceNameAlreadyRegistered where the key is not looked at
        assert len(core.registry.async_get_service_infos()) == len(infos)
        for role in shown.roles:
            found = core.registry.async_get_infos_type(SUBTYPES[role].lower())
            assert [info.name for info in found] == [shown.service]
        assert [i.name for i in core.registry.async_get_infos_type(SERVICE_TYPE.lower())] == [shown.service]
    finally:
        core.close()


class Closed(ServiceInfo):
    """A ServiceInfo whose key cannot be set."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "key" and hasattr(self, "key"):
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_without_it_the_service_is_published_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(advertise, "ServiceInfo", Closed)
    with caplog.at_level(logging.ERROR):
        infos = advertise._infos(advertisement("ems.local", roles=frozenset({Role.CEM})), ["127.0.0.1"])
    assert set(infos) == {None}
    assert "ServiceInfo.key" in caplog.text
