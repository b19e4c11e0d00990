"""Sites from a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from s2connect.errors import UsageError
from s2connect.simulate.site import PlannedDevice, read_site
from tests.shared import SHARED
from tests.simulate.simulate_fixtures import DAY, MIDNIGHT, a_device

PILOTS = SHARED / "data" / "pilots.csv"
HEADER = "site,area,appliance,resource,count,kw,kwh,litres\n"


def table(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "site.csv"
    path.write_text(header + "\n".join(rows) + "\n", "utf-8")
    return path


def test_every_row_becomes_its_devices(tmp_path: Path) -> None:
    path = table(tmp_path, "Here,Cellar,Big battery,BESS,2,250,175,", "# not this", "", "There,Roof,Panels,PV,1,12,,")
    assert read_site(path) == [
        PlannedDevice(
            "battery-1", "battery", "Cellar Big battery 1", "Here", {"max_power": 250e3, "capacity": 175e3}, 1
        ),
        PlannedDevice(
            "battery-2", "battery", "Cellar Big battery 2", "Here", {"max_power": 250e3, "capacity": 175e3}, 2
        ),
        PlannedDevice("pv-3", "pv", "Roof Panels", "There", {"peak": 12e3}, 3),
    ]


def test_a_choice_does_not_change_who_is_who(tmp_path: Path) -> None:
    path = table(tmp_path, "Here,A,Charger,EVSE,2,7,,", "There,B,Boiler,BOILER,1,,,200")
    assert read_site(path, site="there") == read_site(path)[2:]


@pytest.mark.parametrize(
    ("row", "kind", "settings"),
    [
        ("S,A,x,BESS,1,,150,", "battery", {"max_power": 75e3, "capacity": 150e3}),
        ("S,A,x,HVAC,1,,,", "heat-pump", {}),
        ("S,A,x,BOILER,1,,,25", "water-heater", {"max_power": 325.0, "litres": 25.0}),
        ("S,A,x,EVSE,1,22,,", "ev-charger", {"max_power": 22e3}),
    ],
)
def test_what_a_row_leaves_out_is_as_usual(tmp_path: Path, row: str, kind: str, settings: dict[str, float]) -> None:
    (device,) = read_site(table(tmp_path, row))
    assert (device.kind, device.settings) == (kind, settings)
    assert device.make(Random(1), now=MIDNIGHT).details().resource_id == device.resource_id


def test_homes_have_a_device_of_each_kind_in_turn(tmp_path: Path) -> None:
    devices = read_site(table(tmp_path, "S,A,Home,HOME,10,,,"))
    assert set(Counter(device.kind for device in devices).values()) == {2}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("S,A,x,TOASTER,1,,,", "line 2: the resource"),
        ("S,A,x,PV,none,,,", "line 2: count"),
        ("S,A,x,PV,1.5,,,", "line 2: count"),
        ("S,A,x,PV,0,,,", "line 2: count"),
        ("S,A,x,PV,,,,", "line 2: count"),
        ("S,A,x,PV,1,-4,,", "line 2: kw"),
        ("S,A,x,PV,1,nan,,", "line 2: kw"),
        ("S,A,x,PV", "line 2: count"),
        ("S,A,x,PV,99999999,,,", "line 2: count"),
        ("", "has no device"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_site(table(tmp_path, row))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column"):
        read_site(table(tmp_path, "1,2", header="a,b\n"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_site(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_site(tmp_path / "binary.csv")
    with pytest.raises(UsageError, match="longer than"):
        read_site(table(tmp_path, "#" * 1_000_001))
    with pytest.raises(UsageError, match="no device of that site") as refused:
        read_site(table(tmp_path, "Here,A,x,PV,1,,,"), site="Nowhere")
    assert "Here" in refused.value.hint


@pytest.mark.skipif(not PILOTS.is_file(), reason="the table of the pilot sites is not in ../shared")
def test_the_pilot_sites_have_236_devices_that_all_live_through_a_day() -> None:
    plan = read_site(PILOTS)
    assert len(plan) == len({device.resource_id for device in plan}) == 236
    assert {device.kind for device in plan} == {"battery", "pv", "ev-charger", "heat-pump", "water-heater"}
    for planned in {(p.kind, *sorted(p.settings.items())): p for p in plan}.values():
        device = planned.make(Random(1), now=MIDNIGHT)
        assert len(device.advance(MIDNIGHT + DAY)) >= 24 * 60
        assert device.state()


def test_alone_a_whole_day_says_the_same_with_the_same_chance() -> None:
    one, other = (a_device("water-heater", seed=3).advance(MIDNIGHT + DAY) for _ in range(2))
    assert [m.to_value() | {"message_id": ""} for m in one] == [m.to_value() | {"message_id": ""} for m in other]
