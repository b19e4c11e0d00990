"""``bridge pair``: what it says about a bridge that makes its links a moment after a pairing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from s2connect.cli import bridge_pairing
from s2connect.cli.bridge_pairing import lead
from s2connect.service.commands import Code, Pair, ShowBridge
from s2connect.service.failures import ExitCode, Failure
from tests.waits import within

DEVICE = "5b1c7d9e-0000-4000-8000-000000000001"


class SlowBridge:
    """Answers of a bridge of one route, whose new device has a link only when it was looked for some times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.paired: list[str] = []
        self.known = False

    async def ask(self, command: Any) -> Any:
        match command:
            case Pair(url=url):
                self.paired.append(str(url))
                self.known = "manager" in str(url)
                return SimpleNamespace(peer=SimpleNamespace(id=DEVICE, title="Boiler"))
            case Code():
                return SimpleNamespace(code="ABCDEFGH", pairing_url="https://bridge.local/pairing/")
            case ShowBridge():
                links = []
                if self.paired:
                    self.looks -= 1
                    if self.looks < 0:
                        representative = {"node": "n", "paired_with": "them" if self.known else None}
                        links = [{"key": DEVICE, "name": "house/Boiler", "representative": representative}]
                side = {"type": "s2-connect", "node": "node"}
                return SimpleNamespace(
                    bridge={"routes": [{"name": "house", "devices": side, "manager": side, "links": links}]}
                )
        raise AssertionError(command)


class Silent:
    """Standard input of a program that writes nothing, and does not end."""

    interactive = False

    async def ask(self, question: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError


class Typed:
    """Lines that somebody types, one after the other."""

    interactive = False

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    async def ask(self, question: str) -> str:
        return self.lines.pop(0)


async def pair(bridge: SlowBridge, *lines: str, manager_url: str | None = None) -> dict[str, Any]:
    control, typed = bridge, Typed(*lines)
    async with within(30):
        result = await lead(
            control,  # type: ignore[arg-type]
            typed,  # type: ignore[arg-type]
            None,
            device_url="https://device.local:8443/pairing/",
            manager_url=manager_url,
            another=False,
        )
    (route,) = result["routes"]
    return dict(route)


async def test_a_device_that_was_just_paired_is_not_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    route = await pair(SlowBridge(looks=3), "DEVICE CODE", "", manager_url="https://manager.local/pairing/")
    assert route["left"] == ["house/Boiler"]
    said = capsys.readouterr().err
    assert "Not yet known to the energy manager: Boiler" in said
    assert "Everything is paired" not in said


async def test_the_energy_manager_of_a_device_that_was_just_paired_is_paired_too() -> None:
    bridge = SlowBridge(looks=3)
    route = await pair(bridge, "DEVICE CODE", "MANAGER CODE", manager_url="https://manager.local/pairing/")
    assert (route["left"], len(bridge.paired)) == ([], 2)


async def test_a_bridge_that_makes_no_link_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_pairing, "LINK_TIMEOUT", 0.2)
    with pytest.raises(Failure, match="Boiler is paired, and the bridge has made no link"):
        await pair(SlowBridge(looks=10**6), "DEVICE CODE")


@pytest.mark.parametrize(
    ("device_url", "kind", "code", "said"),
    [
        (None, "pairing_expired", ExitCode.PAIRING, "No device has come within 1 s"),
        ("https://device.local/pairing/", "peer_timeout", ExitCode.NETWORK, "Nothing was read from standard input"),
    ],
)
async def test_what_is_awaited_without_a_terminal_is_awaited_for_a_time_that_is_said(
    device_url: str | None, kind: str, code: ExitCode, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = lead(SlowBridge(0), Silent(), None, device_url=device_url, manager_url=None, another=False, wait=1)  # type: ignore[arg-type]
    with pytest.raises(Failure, match=said) as failed:
        async with within(10):
            await work
    assert (failed.value.kind, failed.value.code) == (kind, code)
    assert device_url or "Waiting for the device, for 1 s at most" in capsys.readouterr().err
