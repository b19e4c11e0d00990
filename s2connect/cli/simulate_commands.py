"""``s2connect simulate``: simulated devices and energy managers over real sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2connect.cli.terminal import Options, examples, print_json, register, run_work, say, with_options
from s2connect.errors import UsageError
from s2connect.service.signals import until_terminated

app = typer.Typer(
    help="Simulated devices and energy managers, for trying things out.",
    no_args_is_help=True,
    epilog=examples("s2connect simulate cem --speed 60", "s2connect simulate rm battery --speed 60"),
)


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
    str | None, typer.Option(help="Name under which others reach this machine, if no state directory has it.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="TCP port, if no state directory has it; 0: any.")]
BindOption = Annotated[
    str | None, typer.Option(help="Address to listen on, if no state directory has it; default all.")
]


@with_options(
    "s2connect simulate rm battery --pair https://localhost:8443/pairing/",
    "s2connect simulate rm heat-pump",
    name="rm",
)
def resource_manager(
    options: Options,
    kind: Annotated[
        Literal["battery", "ev-charger", "pv", "heat-pump", "water-heater"], typer.Argument(help="What to simulate.")
    ],
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
        Literal["pebc", "ppbc", "ombc", "frbc", "ddbc"] | None,
        typer.Option("--control-type", case_sensitive=False, help="Offer this control type only."),
    ] = None,
    speed: SpeedOption = 1.0,
    seed: SeedOption = 0,
    measure_every: PeriodOption = 60.0,
    host: HostOption = None,
    port: PortOption = 0,
    bind: BindOption = None,
) -> None:
    """Simulate a device. Without --pair it shows its pairing URL and code, unless it is paired already.

    Without --home nothing is kept: neither the pairing nor the device's identity. With --plain the device knows no
    S2 Connect: no pairing, no state, and it keeps connecting to one WebSocket.
    """
    from s2connect.cli import simulate
    from s2connect.endpoint.config import checked
    from s2connect.model.common import Role
    from s2connect.simulate import run

    if plain is not None and (url is not None or options.home is not None):
        raise UsageError("--plain goes with neither --pair nor --home: an old device is paired with nobody.")
    if token_file is not None and plain is None:
        raise UsageError("--token-file belongs to --plain.")
    pair_with, report, time = simulate.with_code(url), simulate.reporter(options.as_json), run.Clock(speed)
    device = simulate.simulated(kind, name, control_type, seed, measure_every, time)
    if plain is not None:
        work = run.run_old_device(plain, token_file, device, time, report)
    else:
        node = checked(lambda: run.node_config(Role.RM, kind, name), "--name")
        work = simulate.on_endpoint(
            options.home,
            lambda: simulate.single(node, options.home, host, port, bind, server=url is None),
            lambda endpoint: run.run_device(endpoint, device, time, report, pair_with=pair_with),
        )
    run_work(until_terminated(work, name="s2connect-cli-simulate"))


@with_options(
    "s2connect simulate cem --speed 60", "s2connect simulate cem --many --host localhost --bind 127.0.0.1", name="cem"
)
def energy_manager(
    options: Options,
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
) -> None:
    """Simulate an energy manager that follows the surplus of the sun. Shows its pairing URL and a code for each device.

    Without --home nothing is kept.
    """
    from s2connect.cli import simulate
    from s2connect.endpoint.config import checked
    from s2connect.model.common import Role
    from s2connect.simulate import run

    report, time = simulate.reporter(options.as_json), run.Clock(speed)
    node = checked(lambda: run.node_config(Role.CEM, "energy manager", name), "--name")
    work = simulate.on_endpoint(
        options.home,
        lambda: simulate.single(node, options.home, host, port, bind, server=True),
        lambda endpoint: run.run_manager(endpoint, fuse_limit, time, report, name=name or "cem", many=many),
    )
    run_work(until_terminated(work, name="s2connect-cli-simulate"))


@with_options(
    "s2connect simulate site house.csv --dry-run",
    "s2connect simulate site house.csv --pair https://localhost:8443/pairing/",
)
def site(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Table of devices (CSV).")],
    url: PairOption = None,
    only: Annotated[str | None, typer.Option("--site", metavar="NAME", help="Only the devices of this site.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which devices these are.")] = False,
    speed: SpeedOption = 1.0,
    seed: SeedOption = 0,
    measure_every: PeriodOption = 60.0,
) -> None:
    """Simulate all devices of a site, in one process, each as a node of its own.

    All are paired with one energy manager, about one a second, with a code that counts several times (the code of
    simulate cem --many). The columns of the table are site, area, appliance, resource (BESS, PV, EVSE, HVAC, BOILER or
    HOME), count, kw, kwh and litres.
    """
    from s2connect.cli import simulate
    from s2connect.endpoint.config import default_host
    from s2connect.simulate import run
    from s2connect.simulate import site as sites

    plan = sites.read_site(file, site=only)
    if dry_run and options.as_json:
        print_json({"devices": [{**device._asdict(), "settings": dict(device.settings)} for device in plan]})
    elif dry_run:
        for line in simulate.plan_lines(plan):
            say(line)
    else:
        pair_with, report, time = simulate.with_code(url), simulate.reporter(options.as_json), run.Clock(speed)
        host = "localhost" if options.home is None else default_host()
        work = simulate.on_endpoint(
            options.home,
            lambda: sites.fleet_config(plan, host=host),
            lambda endpoint: simulate.site(endpoint, plan, pair_with, time, report, seed, measure_every),
        )
        run_work(until_terminated(work, name="s2connect-cli-simulate"))


@with_options("s2connect demo", "s2connect demo --embedded-broker --log-dir logs", home=False)
def demo(
    options: Options,
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the logs of all processes here; with --verbose in detail.")
    ] = None,
    embedded_broker: Annotated[
        bool, typer.Option("--embedded-broker", help="Leave a Mosquitto of this machine alone.")
    ] = False,
) -> None:
    """See three simulated devices, a bridge and a cloud over WebSocket and MQTT, on this machine. Leaves nothing."""
    from s2connect.cli.demo_text import narrator
    from s2connect.demo import demonstration

    tell_step = narrator(as_json=options.as_json)
    run_work(demonstration.run(tell_step, log_dir=log_dir, verbose=options.verbose, embedded=embedded_broker))


register(app, resource_manager, energy_manager, site)
