"""``s2connect simulate``: simulated devices and energy managers over real sessions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s2connect.cli.terminal import HomeOption, JsonOption, VerboseOption, log_to_stderr, print_json, run_work, say
from s2connect.errors import UsageError
from s2connect.service.signals import until_terminated

app = typer.Typer(help="Simulated devices and energy managers, for trying things out.", no_args_is_help=True)


class KindChoice(StrEnum):
    """Kinds of devices as people type them."""

    BATTERY = "battery"
    EV_CHARGER = "ev-charger"
    PV = "pv"
    HEAT_PUMP = "heat-pump"
    WATER_HEATER = "water-heater"


class ControlChoice(StrEnum):
    """Control types as people type them."""

    PEBC = "pebc"
    PPBC = "ppbc"
    OMBC = "ombc"
    FRBC = "frbc"
    DDBC = "ddbc"


PairOption = Annotated[
    str | None,
    typer.Option(
        "--pair", metavar="URL", help="Pair first, with this pairing URL; the code is asked for, or read from stdin."
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name that its user gives it.")]
SpeedOption = Annotated[
    float, typer.Option(min=0.001, max=100_000, help="Simulated seconds in a real one; the same on both sides.")
]
SeedOption = Annotated[int, typer.Option(help="The same number makes the same devices.")]
PeriodOption = Annotated[
    float, typer.Option("--measure-every", min=0.1, max=3600, help="Simulated seconds between two measurements.")
]
HostOption = Annotated[
    str | None, typer.Option(help="Name under which others reach this machine, if no state directory says it.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="TCP port, if no state directory says it; 0: any.")]
BindOption = Annotated[
    str | None, typer.Option(help="Address to listen on, if no state directory says it; default all.")
]


@app.command("rm")
def resource_manager(
    kind: Annotated[KindChoice, typer.Argument(help="What to simulate.")],
    url: PairOption = None,
    plain: Annotated[
        str | None,
        typer.Option("--plain", metavar="URL", help="An old device: connect to this URL with plain S2 (0.0.2-beta)."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="File with the token for --plain.")
    ] = None,
    name: NameOption = None,
    control_type: Annotated[
        ControlChoice | None,
        typer.Option("--control-type", case_sensitive=False, help="Offer this control type only."),
    ] = None,
    speed: SpeedOption = 1.0,
    seed: SeedOption = 0,
    measure_every: PeriodOption = 60.0,
    host: HostOption = None,
    port: PortOption = 0,
    bind: BindOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a device. Without --pair it shows its pairing URL and code, unless it is paired already.

    Without --home nothing is kept: neither the pairing nor the device's identity. With --plain the device knows no
    S2 Connect: no pairing, no state, and it keeps connecting to one WebSocket.
    """
    from s2connect.cli import simulate
    from s2connect.model.common import Role
    from s2connect.simulate import clock, fleet

    log_to_stderr(verbose)
    if plain is not None and (url is not None or home is not None):
        raise UsageError("--plain goes with neither --pair nor --home: an old device is paired with nobody.")
    if token_file is not None and plain is None:
        raise UsageError("--token-file belongs to --plain.")
    pair_with, report, time = simulate.with_code(url), simulate.reporter(as_json), clock.Clock(speed)
    control = control_type.value if control_type else None
    device = simulate.simulated(kind.value, name, control, seed, measure_every, time)
    if plain is not None:
        work = fleet.run_old_device(plain, token_file, device, time, report)
    else:
        node = fleet.node_config(Role.RM, kind.value, name)
        work = simulate.on_endpoint(
            home,
            lambda: simulate.single(node, home, host, port, bind, server=url is None),
            lambda endpoint: fleet.run_device(endpoint, device, time, report, pair_with=pair_with),
        )
    run_work(until_terminated(work, name="s2connect-cli-simulate"))


@app.command("cem")
def energy_manager(
    fuse_limit: Annotated[
        float, typer.Option("--fuse-limit", metavar="W", min=100, max=1e9, help="Most power from the grid, or to it.")
    ] = 17_250.0,
    many: Annotated[
        bool, typer.Option("--many", help="One code that any number of devices can be paired with.")
    ] = False,
    name: NameOption = None,
    speed: SpeedOption = 1.0,
    host: HostOption = None,
    port: PortOption = 0,
    bind: BindOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate an energy manager that follows the surplus of the sun. Shows its pairing URL and a code for each device.

    Without --home nothing is kept.
    """
    from s2connect.cli import simulate
    from s2connect.model.common import Role
    from s2connect.simulate import clock, fleet

    log_to_stderr(verbose)
    report, time = simulate.reporter(as_json), clock.Clock(speed)
    node = fleet.node_config(Role.CEM, "energy manager", name)
    work = simulate.on_endpoint(
        home,
        lambda: simulate.single(node, home, host, port, bind, server=True),
        lambda endpoint: fleet.run_manager(endpoint, fuse_limit, time, report, name=name or "cem", many=many),
    )
    run_work(until_terminated(work, name="s2connect-cli-simulate"))


@app.command()
def site(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Table of devices (CSV).")],
    url: PairOption = None,
    only: Annotated[str | None, typer.Option("--site", metavar="NAME", help="Only the devices of this site.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which devices these are.")] = False,
    speed: SpeedOption = 1.0,
    seed: SeedOption = 0,
    measure_every: PeriodOption = 60.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate all devices of a site, in one process, each as a node of its own.

    All are paired with one energy manager, about one a second, with a code that counts several times (the code of
    simulate cem --many). The columns of the table are site, area, appliance, resource (BESS, PV, EVSE, HVAC, BOILER or
    HOME), count, kw, kwh and litres.
    """
    from s2connect.cli import simulate
    from s2connect.endpoint.config import default_host
    from s2connect.simulate import clock, fleet
    from s2connect.simulate.site import read_site

    log_to_stderr(verbose)
    plan = read_site(file, site=only)
    if dry_run and as_json:
        print_json({"devices": [{**device._asdict(), "settings": dict(device.settings)} for device in plan]})
    elif dry_run:
        for line in simulate.plan_lines(plan):
            say(line)
    else:
        pair_with, report, time = simulate.with_code(url), simulate.reporter(as_json), clock.Clock(speed)
        host = "localhost" if home is None else default_host()
        work = simulate.on_endpoint(
            home,
            lambda: fleet.fleet_config(plan, host=host),
            lambda endpoint: simulate.site(endpoint, plan, pair_with, time, report, seed, measure_every),
        )
        run_work(until_terminated(work, name="s2connect-cli-simulate"))
