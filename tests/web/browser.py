"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from tests.waits import patience

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "docs" / "images"
AXE = REPOSITORY / ".peers" / "axe"

WRITE = "S2CONNECT_WRITE_IMAGES"
"""With this variable the tests write the pictures of the documents."""

FLAGS = [
    "--no-sandbox",  # root's Chromium has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PHONE: ViewportSize = {"width": 360, "height": 740}
WIDE: ViewportSize = {"width": 1100, "height": 800}


def _need(there: bool, reason: str) -> None:
    """Skip a test where something is missing; fail in CI, which installs it."""
    if not there:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser with a directory of its own, which is removed at the end."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    _need(path is not None, "there is no Chromium (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """Open a tab with cookies of its own. Errors of scripts, and what the content policy refuses, fail the test."""
    faults: list[str] = []
    context = await browser.new_context(**{"viewport": WIDE, "locale": "en-GB", **options})
    context.set_default_timeout(patience(10) * 1000)
    expect.set_options(timeout=patience(10) * 1000)
    try:
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
        yield page
    finally:
        await context.close()
    assert not faults


async def picture(page: Page, name: str, *, selector: str = "") -> None:
    """Write a picture of the page, or of an element, for the documents, where that is wanted."""
    if os.environ.get(WRITE):
        path = IMAGES / f"page-{name}.png"
        if selector:
            await page.locator(selector).screenshot(path=path)
        else:
            await page.screenshot(path=path, full_page=True)


async def fits(page: Page) -> bool:
    """Return whether nothing of a page is beyond its right edge."""
    width = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return bool(width[0] <= width[1])


async def check_access(page: Page) -> None:
    """Check that people of all abilities can use a page, by axe-core: no serious or critical finding."""
    _need((AXE / ".installed").is_file(), "axe-core is not installed (bash tests/npm.sh; it needs node and npm)")
    script = (AXE / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
    # Not by a script element, which the content policy of the page refuses.
    await page.evaluate(script)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    short = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious]
    assert not serious, json.dumps(short, indent=1)
