"""The one zeroconf instance of a process, in a network made for the test."""

from __future__ import annotations

import pytest

from tests.netns import Lan, require_netns


@pytest.fixture(autouse=True)
def _possible() -> None:
    require_netns()


def test_all_users_share_one_instance_and_the_last_one_closes_it() -> None:
    with Lan(1, ipv6=False) as lan:
        lan.hosts[0].python("""
            import asyncio
            from s2connect.discovery.shared import shared_zeroconf

            async def main():
                async with shared_zeroconf() as first:
                    async with shared_zeroconf() as second:
                        assert second is first
                    assert not first.zeroconf.done
                assert first.zeroconf.done
                async with shared_zeroconf() as third:
                    assert third is not first
                assert len(asyncio.all_tasks()) == 1

            asyncio.run(main())
        """)


def test_an_injected_instance_is_used_and_never_closed() -> None:
    with Lan(1, ipv6=False) as lan:
        lan.hosts[0].python("""
            import asyncio
            from zeroconf.asyncio import AsyncZeroconf
            from s2connect.discovery.advertise import Advertiser
            from s2connect.discovery.browse import Appeared, Browser, Vanished
            from s2connect.discovery.resolve import resolve
            from tests.discovery.advertisements import advertisement

            async def main():
                injected = AsyncZeroconf(interfaces=["10.77.1.1"])
                async with Browser(zeroconf=injected) as browser:
                    async with Advertiser(advertisement(), zeroconf=injected):
                        assert isinstance(await anext(browser), Appeared)
                        assert await resolve("ems-1a2b.local", zeroconf=injected) == ["10.77.1.1"]
                    assert isinstance(await anext(browser), Vanished)
                assert not injected.zeroconf.done
                assert not injected.zeroconf.registry.async_get_service_infos()
                await injected.async_close()

            asyncio.run(main())
        """)


def test_a_browser_that_is_closed_ends_the_iteration() -> None:
    with Lan(1, ipv6=False) as lan:
        lan.hosts[0].python("""
            import asyncio
            from s2connect.discovery.browse import Browser

            async def main():
                browser = Browser()
                async with browser:
                    reader = asyncio.create_task(anext(browser, "ended"))
                    await asyncio.sleep(0)
                assert await reader == "ended"

            asyncio.run(main())
        """)


@pytest.mark.rule("DISC-07")
def test_two_advertisements_of_one_name_in_one_process_are_a_conflict() -> None:
    with Lan(1, ipv6=False) as lan:
        lan.hosts[0].python("""
            import asyncio
            from s2connect.discovery.advertise import Advertiser
            from s2connect.errors import NameConflict
            from tests.discovery.advertisements import advertisement

            async def main():
                async with Advertiser(advertisement()):
                    try:
                        await Advertiser(advertisement()).start()
                    except NameConflict:
                        pass
                    else:
                        raise AssertionError("no conflict")
                async with Advertiser(advertisement()):
                    pass

            asyncio.run(main())
        """)


def test_a_machine_without_any_address_says_so() -> None:
    with Lan(1, ipv4=False, ipv6=False) as lan:
        lan.hosts[0].ip("addr", "flush", "dev", "lo")
        lan.hosts[0].python("""
            import asyncio
            from s2connect.discovery.resolve import resolve
            from s2connect.errors import NotReachable

            async def main():
                try:
                    await resolve("ems.local")
                except NotReachable as error:
                    assert error.what == "This machine has no network address."
                else:
                    raise AssertionError

            asyncio.run(main())
        """)
