"""The page in a real browser: pairing by clicking, live messages, the truth about a dead peer, everybody's access."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

from s2connect import Role
from s2connect.https.server import free_port
from tests.command import Running
from tests.waits import patience
from tests.web.browser import PHONE, WIDE, check_access, chromium, fits, picture, tab
from tests.web.pages import Site, serving, site
from tests.web.shown import house, shown

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@asynccontextmanager
async def simulated_battery(of: Site, *, code: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a battery as a process of its own, which pairs with the energy manager of a page."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "s2connect", "simulate", "rm", "battery", "--speed", "60", "--host", "127.0.0.1"),
        *("--bind", "127.0.0.1", "--pair", of.pairing_url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(f"{code}\n".encode())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def see(page: Page, text: str | re.Pattern[str], selector: str = "body", *, seconds: float = 10) -> None:
    await expect(page.locator(selector)).to_contain_text(text, timeout=patience(seconds) * 1000)


async def test_two_endpoints_are_paired_by_clicking_and_unpaired_again(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM, user_defined_name="House") as cem,
        site(tmp_path / "rm", Role.RM, user_defined_name="Battery in the cellar") as rm,
        chromium() as browser,
        tab(browser) as house,
        tab(browser, viewport=PHONE) as phone,
    ):
        await house.goto(cem.server.url)
        await house.get_by_role("button", name="Show a code").click()
        code = await house.locator(".the-code").inner_text()
        await picture(house, "code", selector="#code")
        await phone.goto(rm.server.url)
        await phone.get_by_role("link", name="Type an address").click()
        await phone.get_by_label("Address of the other side").fill(f"{cem.pairing_url} AAAA BBBB CCCC")  # of a QR code
        assert await phone.get_by_label("Its pairing code").input_value() == "AAAA BBBB CCCC"
        await phone.get_by_role("button", name="Pair", exact=True).click()
        await see(phone, "code", "[role=alert]")
        assert await phone.get_by_label("Address of the other side").input_value() == cem.pairing_url
        await phone.get_by_label("Its pairing code").fill(code.lower())
        assert await fits(phone)
        await picture(phone, "pair-phone")
        await phone.get_by_role("button", name="Pair", exact=True).click()
        await see(phone, "1 of 1 connected", "h1")
        await see(house, "1 of 1 connected", "h1")  # nobody touched it
        await see(house, "1 of 1 connected", "#news")  # said to those who do not see it
        await see(house, "Battery in the cellar", "#peers")
        await house.get_by_role("link", name="Unpair Battery in the cellar").click()
        await see(house, "Unpair Battery in the cellar?")
        await house.get_by_role("link", name="Keep it").click()
        await see(house, "1 of 1 connected", "h1")
        await house.get_by_role("link", name="Unpair Battery in the cellar").click()
        await house.get_by_role("button", name="Unpair").click()
        await see(house, "Nothing is paired yet", "h1")
        await see(phone, "Nothing is paired yet", "h1")
        assert not await rm.endpoint.pairings()


async def test_messages_arrive_live_and_a_killed_peer_is_shown_as_gone(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM, user_defined_name="House") as cem,
        chromium() as browser,
        tab(browser) as page,
    ):
        await page.goto(cem.server.url)
        async with simulated_battery(cem, code=cem.code()) as battery:
            await see(page, "1 of 1 connected", "h1", seconds=30)
            await see(page, "ResourceManagerDetails", "#messages", seconds=20)
            await see(page, "PowerMeasurement", "#messages", seconds=20)
            await see(page, "now", "#curves", seconds=20)
            await page.get_by_label("Only messages with this").fill("PowerMeas")
            await expect(page.locator("#messages li").first).to_contain_text("PowerMeasurement")
            await expect(page.locator("#messages")).not_to_contain_text("ResourceManagerDetails")
            await page.get_by_role("button", name="Pause").click()
            held = await page.locator("#messages").inner_text()
            # An open text and the focus stay over updates.
            await page.locator("#messages summary").first.click()
            await page.locator("#messages summary").first.focus()
            heard = page.locator("#peers dd time").nth(1)
            before = await heard.get_attribute("data-at")
            await expect(heard).not_to_have_attribute("data-at", before or "", timeout=patience(20) * 1000)
            assert (await page.locator("#messages").inner_text()).startswith(held[:40])
            assert await page.evaluate("document.activeElement.nodeName") == "SUMMARY"
            # Another filter shows once what fits.
            await page.get_by_label("Only messages with this").fill("ManagerDet")
            await see(page, "ResourceManagerDetails", "#messages", seconds=20)
            await page.get_by_role("button", name="Go on").click()
            await page.get_by_label("Only messages with this").fill("")
            await see(page, "ResourceManagerDetails", "#messages", seconds=20)
            await expect(page.locator("#messages")).not_to_contain_text("ReceptionStatus")
            await page.get_by_label("Acknowledgements, too").check()
            await see(page, "ReceptionStatus", "#messages", seconds=20)
            await page.get_by_label("Acknowledgements, too").uncheck()
            await expect(page.locator("#messages")).not_to_contain_text("ReceptionStatus")
            await page.set_viewport_size(PHONE)
            assert await fits(page)
            battery.send_signal(signal.SIGKILL)
            await see(page, "0 of 1 connected", "h1", seconds=20)
            await see(page, "not connected", "#peers")


async def test_a_bridge_is_paired_on_both_sides_by_clicking(tmp_path: Path) -> None:
    """All of it are processes of their own: the bridge with its page, an energy manager and a battery."""
    file, port = tmp_path / "bridge.toml", free_port()
    file.write_text(
        f'home = "home"\nendpoint = {{ host = "localhost", bind = "127.0.0.1", port = {port}, advertise = false }}\n'
        '[page]\nport = 0\n[[route]]\nname = "house"\n'
        'devices = { type = "s2-connect" }\nmanager = { type = "s2-connect" }\n'
    )
    here = ("--host", "localhost", "--bind", "127.0.0.1", "--speed", "60")
    bridge = Running(tmp_path, command=("bridge", "run", str(file)))
    manager = Running(tmp_path, command=("simulate", "cem", *here))
    devices = []
    try:
        url = (await asyncio.to_thread(bridge.event, "bridge_ready"))["page"]
        shown_code = await asyncio.to_thread(manager.event, "code")
        async with chromium() as browser, tab(browser) as page:
            await page.goto(url)
            await see(page, "No links yet", "h1")
            await page.get_by_role("button", name="Show a code").click()
            code = await page.locator(".the-code").inner_text()
            where = f"https://localhost:{port}/pairing/"
            devices.append(Running(tmp_path, command=("simulate", "rm", "battery", *here, "--pair", where)))
            devices[0].write(f"{code}\n")
            await see(page, "0 of 1 links up", "h1", seconds=30)
            await see(page, "The energy manager is not paired", "#links")
            await page.goto(f"{url}pair")
            await page.get_by_label("Address of the other side").fill(shown_code["pairing_url"])
            await page.get_by_label("Its pairing code").fill(shown_code["code"])
            chosen = await page.locator("#node option:checked").inner_text()
            assert chosen.startswith("For the energy manager of"), "what is not paired yet is offered first"
            await page.get_by_role("button", name="Pair", exact=True).click()
            await see(page, "1 of 1 links up", "h1", seconds=30)
            await page.get_by_label("Only messages with this").fill("SelectControlType")
            await see(page, "SelectControlType", "#messages", seconds=30)
            await check_access(page)
            await picture(page, "bridge", selector="#links")
            manager.process.kill()
            await see(page, "0 of 1 links up", "h1", seconds=20)
    finally:
        for one in (*devices, manager, bridge):
            one.kill()


async def test_a_peer_whose_network_is_gone_is_shown_within_its_heartbeat(tmp_path: Path) -> None:
    """It does not even say goodbye: stopped, its process keeps the connection, and answers nothing."""
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        chromium() as browser,
        tab(browser) as page,
    ):
        await page.goto(cem.server.url)
        async with simulated_battery(cem, code=cem.code()) as battery:
            await see(page, "1 of 1 connected", "h1", seconds=30)
            battery.send_signal(signal.SIGSTOP)
            try:
                await expect(page.locator("h1")).to_have_text("0 of 1 connected", timeout=120_000)
            finally:
                battery.send_signal(signal.SIGCONT)


async def test_everything_is_done_by_keyboard(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        site(tmp_path / "rm", Role.RM) as rm,
        chromium() as browser,
        tab(browser) as page,
    ):
        await page.goto(rm.server.url)

        async def tab_to(name: str) -> None:
            for _ in range(60):
                await page.keyboard.press("Tab")
                found = await page.evaluate(
                    "[document.activeElement.textContent, document.activeElement.labels?.[0]?.textContent].join(' ')"
                )
                if name in found:
                    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline != "none", f"the focus on {name} is not seen"
                    return
            raise AssertionError(f"Tab does not lead to {name}")

        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await tab_to("Type an address")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/pair")
        assert await page.evaluate("document.activeElement.id") == "url"
        await page.keyboard.type(cem.pairing_url)
        await tab_to("Its pairing code")
        await page.keyboard.type(cem.code())
        await page.keyboard.press("Enter")
        await see(page, "1 of 1 connected", "h1")
        await tab_to("Unpair")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/unpair?*")
        await tab_to("Unpair")
        await page.keyboard.press("Enter")
        await see(page, "Nothing is paired yet", "h1")


async def test_the_essentials_work_without_scripts(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        site(tmp_path / "rm", Role.RM, user_defined_name="Cellar") as rm,
        chromium() as browser,
        tab(browser, java_script_enabled=False) as page,
    ):
        await page.goto(rm.server.url)
        await page.get_by_role("link", name="Type an address").click()
        await page.get_by_label("Address of the other side").fill(cem.pairing_url)
        await page.get_by_label("Its pairing code").fill(cem.code())
        await page.get_by_role("button", name="Pair", exact=True).click()
        await see(page, "Paired.", ".note.good")
        await page.goto(cem.server.url)
        await see(page, "1 of 1 connected", "h1")
        await see(page, "Load again", "footer")
        await page.get_by_role("link", name="Unpair Cellar").click()
        await page.get_by_role("button", name="Unpair").click()
        await see(page, "Nothing is paired yet", "h1")
        rm.server._session = nobody  # type: ignore[assignment, method-assign]  # as another user of the machine
        await page.goto(rm.server.issue_link())
        await page.get_by_label("The link, as it was printed").fill(link := rm.server.issue_link())
        assert await fits(page)
        await page.get_by_role("button", name="Log in with the link").click()
        assert not rm.server._links.take(link.partition("#")[2], now=0.0), "it was used"


async def nobody(_: web.Request) -> None:
    return None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("what", ["house", "everything"])
async def test_the_page_is_for_everybody_and_fits_a_phone(scheme: str, what: str) -> None:
    async with (
        serving(house() if what == "house" else shown("Heat pump in the cellar")) as server,
        chromium() as browser,
        tab(browser, color_scheme=scheme, reduced_motion="reduce") as page,
    ):
        await page.goto(server.url)
        for path in ("", "pair", f"unpair?node={'0' * 8}-0000-0000-0000-{1:012}&peer={uuid4()}", "pair?waiting=x"):
            await page.set_viewport_size(PHONE)
            await page.goto(server.url + path)
            assert await fits(page), path
            await check_access(page)
            if (path, what, scheme) == ("", "house", "dark"):
                await picture(page, "phone")
            await page.set_viewport_size(WIDE)
            await check_access(page)
            assert await page.evaluate("document.querySelectorAll('h1').length") == 1
            if (path, what, scheme) == ("", "house", "light"):
                await picture(page, "wide")


async def test_hostile_names_change_nothing_in_a_browser() -> None:
    name = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">\u202e" + "y" * 10_000
    observation = shown(name)
    async with serving(observation) as server, chromium() as browser, tab(browser, viewport=PHONE) as page:
        await page.goto(server.url)
        await expect(page).to_have_title("0 of 1 links up · S2 Connect")
        routes = tuple(replace(one, up=1) for one in observation.snapshot().routes)
        observation._snapshot = replace(observation.snapshot(), routes=routes)  # type: ignore[attr-defined]
        await expect(page).to_have_title("1 of 1 links up · S2 Connect")  # what came by the stream is there
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert await fits(page)


async def test_the_focus_stays_where_an_update_changes_the_order() -> None:
    observation = house()
    async with serving(observation) as server, chromium() as browser, tab(browser) as page:
        await page.goto(server.url)
        last = page.get_by_role("link", name="Unpair Battery in the cellar")
        await last.focus()
        before = observation.snapshot()
        observation._snapshot = replace(before, peers=before.peers[::-1])  # type: ignore[attr-defined]
        await expect(page.locator("#peers h3").first).to_have_text("Battery in the cellar")
        assert await last.evaluate("one => one === document.activeElement")


async def test_the_page_says_that_the_service_is_gone_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    async with chromium() as browser, tab(browser) as page:
        port = free_port()  # nobody else is given it meanwhile
        async with serving(shown("Heat pump"), port=port) as server:
            await page.goto(server.url)
            await expect(page.locator("#lost")).to_be_hidden()
        await expect(page.locator("#lost")).to_be_visible(timeout=patience(15) * 1000)
        async with serving(shown("Heat pump"), port=port):
            await expect(page.locator("#lost")).to_be_hidden(timeout=patience(20) * 1000)
            # Also where it answers and cannot say anything.
            await page.route("**/live*", lambda route: route.fulfill(content_type="text/event-stream", body=": \n\n"))
            await page.reload()
            await expect(page.locator("#lost")).to_be_visible(timeout=patience(15) * 1000)


async def test_a_page_over_the_network_asks_for_the_password(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM, bind="*") as cem,
        chromium() as browser,
        tab(browser, ignore_https_errors=True, viewport=PHONE) as page,
    ):
        url = cem.server.url
        await page.goto(url)
        await see(page, "Log in", "h1")
        await cem.server.set_password("correct horse battery")
        await page.reload()
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            await check_access(page)
        await picture(page, "log-in-phone")
        await page.get_by_label("Password of the page").fill("not this one")
        await page.get_by_role("button", name="Log in").click()
        await see(page, "This is not the password.", "[role=alert]")
        await page.get_by_label("Password of the page").fill("correct horse battery")
        await page.get_by_role("button", name="Log in").click()
        await see(page, "Nothing is paired yet", "h1")
        await page.goto(f"{url}pair")
        cem.server._sessions.expire(1e12)  # days later
        await page.get_by_label("Address of the other side").fill(cem.pairing_url)
        await page.get_by_label("Its pairing code").fill("ABCD")
        await page.get_by_role("button", name="Pair", exact=True).click()
        await see(page, "Log in", "h1")
        await page.get_by_label("Password of the page").fill("correct horse battery")
        await page.get_by_role("button", name="Log in").click()
        await see(page, "Nothing is paired yet", "h1")
        await cem.server.set_password("another one than before")  # ends all sessions
        await see(page, "Log in", "h1")
        for _ in range(12):
            await page.get_by_label("Password of the page").fill("not this one")
            await page.get_by_role("button", name="Log in").click()
            await page.wait_for_load_state()
            if await page.get_by_label("Password of the page").count() == 0:
                break
        await see(page, "Too many", "[role=alert]")
        await check_access(page)
        await page.goto(cem.server.issue_link())
        await see(page, "Nothing is paired yet", "h1")


@asynccontextmanager
async def other_site(html: str) -> AsyncIterator[str]:
    """Serve a page of somebody else on this machine, at another host name."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    application = web.Application()
    application.router.add_get("/", show)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
        yield f"http://localhost:{port}/"
    finally:
        await runner.cleanup()


async def test_a_post_from_another_site_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path / "cem", Role.CEM) as cem, chromium() as browser, tab(browser) as page:
        await page.goto(cem.server.url)
        token = await page.locator("[name=csrf]").first.get_attribute("value")
        form = (
            f'<form method="post" action="{cem.server.url}code"><input name="csrf" value="{token}">'
            f'<input name="node" value="{cem.endpoint.node().id}"><button>Win</button></form>'
        )
        async with other_site(form) as url:
            await page.goto(url)
            async with page.expect_navigation() as navigation:
                await page.get_by_role("button", name="Win").click()
            response = await navigation.value
        assert response is not None
        assert response.url == f"{cem.server.url}code"
        assert response.status == 403
        assert cem.endpoint.node().valid_pairing_code() is None
