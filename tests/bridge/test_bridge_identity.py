"""Identity of a bridge: a route that was renamed without its id is refused, with the line to add."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import UUID

import pytest

from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.problems import BridgeFileError
from s2connect.cli import main

HEAD = 'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = 0\nvault = "files"\n'
ROUTE = '[[route]]\nname = "{}"\n{}[route.devices]\ntype = "{}"\n[route.manager]\ntype = "s2-connect"\n'


def write(file: Path, *routes: tuple[str, str], devices: str = "s2-connect") -> None:
    file.write_text(HEAD + "".join(ROUTE.format(name, line, devices) for name, line in routes))


async def run(file: Path) -> dict[str, str]:
    """Run the bridge of a file once; return the ids of its routes."""
    config, _ = await asyncio.to_thread(load, file)
    async with Bridge.open(config) as bridge:
        return {route["name"]: route["id"] for route in bridge.status()["routes"]}


async def test_a_renamed_route_is_refused_with_the_line_that_keeps_its_pairings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bridge.toml"
    write(file, ("house", ""), ("barn", ""))
    before = await run(file)
    assert await run(file) == before
    write(file, ("home", ""), ("barn", ""))
    assert await asyncio.to_thread(main, ["bridge", "check", str(file)]) == 2
    said = capsys.readouterr().err
    line = re.search(r'add the line: (id = "[0-9a-f-]{36}"); if it is another one: (id = "[0-9a-f-]{36}")', said)
    assert line is not None, said
    assert "line 8: name: the route" in said

    write(file, ("home", f"{line[1]}\n"), ("barn", ""))
    assert await run(file) == {"home": before["house"], "barn": before["barn"]}
    write(file, ("cellar", f"{line[1]}\n"), ("barn", ""))
    assert (await run(file))["cellar"] == before["house"], "with its id it can be renamed"


async def test_another_route_in_its_place_is_taken_once_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    write(file, ("house", ""))
    before = await run(file)
    write(file, ("other", ""))
    with pytest.raises(BridgeFileError) as caught:
        load(file)
    fresh = re.findall(r'id = "([0-9a-f-]{36})"', str(caught.value))[1]
    write(file, ("other", f'id = "{fresh}"\n'))
    assert (await run(file))["other"] == str(UUID(fresh)) != before["house"]
    write(file, ("other", f'id = "{fresh}"\n'), ("third", ""))
    assert len(await run(file)) == 2, "a route more is no renamed one"
    write(file, ("third", ""))
    assert len(await run(file)) == 1, "a route less neither"


async def test_a_reload_refuses_it_too_and_homes_made_before_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    write(file, ("house", ""))
    config, _ = load(file)
    async with Bridge.open(config) as bridge:
        write(file, ("house", ""), ("barn", ""))
        await bridge.reload(load(file)[0])
        write(file, ("house", ""), ("shed", ""))
        with pytest.raises(BridgeFileError, match='"barn" is gone'):
            load(file)
        identity = tmp_path / "home" / "bridge.json"
        identity.write_text(f'{{"id": "{bridge.id}"}}\n')
        await bridge.reload(load(file)[0])
        assert set(bridge.routes) == {"house", "shed"}
