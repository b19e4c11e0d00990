"""Gaps of zeroconf that we fill by hand: when a test fails, our part may go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from zeroconf import RecordUpdate, ServiceInfo, ServiceNameAlreadyRegistered, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from s2connect.discovery.advertise import _infos
from s2connect.discovery.dns import CLASS_IN, PTR, SRV, DNSPointer, DNSService
from s2connect.discovery.endpoint_table import MAX_ENDPOINTS
from s2connect.discovery.txt import SERVICE_TYPE, SUBTYPES
from s2connect.model.common import Role
from tests.discovery.advertisements import advertisement

SHOWN = advertisement("ems.local")


@pytest.fixture
async def zeroconf() -> AsyncIterator[AsyncZeroconf]:
    made = AsyncZeroconf(interfaces=["127.0.0.1"])
    await made.zeroconf.async_wait_for_start()
    yield made
    await made.async_close()


def info(service_type: str) -> ServiceInfo:
    return ServiceInfo(service_type, SHOWN.service, port=1, server="ems.local.", parsed_addresses=["127.0.0.1"])


@pytest.mark.rule("DISC-01")
async def test_it_publishes_one_service_under_no_subtype_beside_its_type(zeroconf: AsyncZeroconf) -> None:
    """Hence ``ServiceInfo.key`` in the advertiser."""
    zeroconf.zeroconf.registry.async_add(info(SERVICE_TYPE))
    with pytest.raises(ServiceNameAlreadyRegistered):
        zeroconf.zeroconf.registry.async_add(info(SUBTYPES[Role.CEM]))


@pytest.mark.rule("DISC-07")
async def test_it_takes_a_name_whose_unique_records_are_another_devices(zeroconf: AsyncZeroconf) -> None:
    """Hence the probe and the name guard of the advertiser."""
    of_another = DNSService(SHOWN.service, SRV, CLASS_IN | 0x8000, 120, 0, 0, 8443, "other.local.")
    zeroconf.zeroconf.cache.async_add_records([of_another])
    await (await zeroconf.async_register_service(info(SERVICE_TYPE)))


@pytest.mark.rule("DISC-09")
async def test_its_update_says_no_goodbye_to_an_address_that_has_gone(zeroconf: AsyncZeroconf) -> None:
    """Hence our goodbyes to addresses and roles."""
    before, after = (_infos(SHOWN, addresses)[None] for addresses in (["10.0.0.1", "fd00::1"], ["10.0.0.1"]))
    zeroconf.zeroconf.registry.async_add(before)
    zeroconf.zeroconf.registry.async_update(after)
    sent = [record for record, _ in zeroconf.zeroconf.generate_service_broadcast(after, None).answers]
    assert set(after.dns_addresses()) <= set(sent)
    assert not (set(before.dns_addresses()) - set(after.dns_addresses())) & set(sent)


@pytest.mark.rule("SEC-03", "DISC-08")
async def test_its_browser_keeps_what_strangers_invent_and_misses_who_leaves_in_silence(
    zeroconf: AsyncZeroconf,
) -> None:
    """Hence the browser and its table."""
    changes: list[ServiceStateChange] = []

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        changes.append(state_change)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[changed])
    try:
        for number in range(2 * MAX_ENDPOINTS):
            pointer = DNSPointer(SERVICE_TYPE, PTR, CLASS_IN, 4500, f"evil-{number}.{SERVICE_TYPE}")
            browser.async_update_records(zeroconf.zeroconf, pointer.created, [RecordUpdate(pointer, None)])
        assert len(browser.query_scheduler._next_scheduled_for_alias) == 2 * MAX_ENDPOINTS
        browser.async_update_records_complete()
        changes.clear()
        over = DNSService(f"evil-1.{SERVICE_TYPE}", SRV, CLASS_IN, 120, 0, 0, 1, "evil.local.")
        expiry = over.created + 120_000
        browser.async_update_records(zeroconf.zeroconf, expiry, [RecordUpdate(over, over)])
        browser.async_update_records_complete()
        assert not changes, "a host that does not answer any more is listed for 75 minutes"
    finally:
        await browser.async_cancel()
