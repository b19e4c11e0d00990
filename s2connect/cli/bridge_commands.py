"""``s2connect bridge``: run a bridge from a file, check the file, look at it, and lead through its pairings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2connect.cli.terminal import (
    Lines,
    LoopOption,
    Options,
    console,
    counted,
    examples,
    register,
    run_work,
    tell,
    with_options,
)
from s2connect.errors import NotInitialised, S2ConnectError, UsageError
from s2connect.service.bridge_advice import in_bridge
from s2connect.service.failures import NO_SERVICE, ExitCode, Failure

if TYPE_CHECKING:
    from s2connect.service.control import Control
    from s2connect.service.event_loop import LoopChoice

app = typer.Typer(
    help="Carry S2 between local devices and energy managers elsewhere, over WebSocket, MQTT and plain S2.",
    no_args_is_help=True,
    epilog=examples("s2connect bridge check bridge.toml", "s2connect bridge run bridge.toml"),
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="TOML file of the bridge; docs/bridge.md explains it.")
]
RunningFileArgument = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File of the bridge, or --home.")]


@with_options(
    "s2connect bridge run bridge.toml",
    "s2connect bridge run bridge.toml --record messages.jsonl",
    home=False,
    level=logging.WARNING,
    service=True,
)
def run(
    options: Options,
    file: FileArgument,
    loop: LoopOption = "auto",
    uvloop: Annotated[bool, typer.Option("--uvloop", help="The same as --loop uvloop.", hidden=True)] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Append every message of every link to this file, for s2connect replay."),
    ] = None,
    record_only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Record this route or link (ROUTE/DEVICE) only. Can be repeated."),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of this instance on the database; default: that of the file, or the machine's."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Run N instances on this machine, each a process, on one port. Needs a database."
        ),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain/--no-drain",
            help="With a database: on SIGTERM, hand the links over to other instances first; a second one ends it.",
        ),
    ] = True,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The page for browsers, as the file has it.")] = True,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the metrics, instead of that of the file.")
    ] = None,
) -> ExitCode:
    """Run a bridge until Ctrl-C or SIGTERM. SIGHUP has it read the file again; what did not change is not touched."""
    from s2connect.cli.bridge_show import BridgeText
    from s2connect.endpoint.instances import INSTANCE_VARIABLE, checked_name
    from s2connect.service.bridge import bridge_workers, run_bridge
    from s2connect.service.serve import json_form

    form = json_form if options.as_json else BridgeText()
    if record_only and record is None:
        raise UsageError("--record-only needs --record LOG.")
    loop = "uvloop" if uvloop else loop
    if instance is not None:
        os.environ[INSTANCE_VARIABLE] = checked_name(instance)
    if workers is not None:
        from s2connect.service.workers import for_people

        words = ["--loop", loop, *(word for name in record_only or () for word in ("--record-only", name))]
        crew_form = form if options.as_json else for_people(form)
        crew = bridge_workers(file, crew_form, workers, words, record=record, drain=drain)
        return ExitCode(_of_file(crew, file, options, loop=loop))
    work = run_bridge(
        file,
        form,
        show_codes=not options.as_json and sys.stdout.isatty(),
        record=record,
        only=record_only or (),
        page=page,
        metrics_port=metrics_port,
        drain=drain,
    )
    return ExitCode(_of_file(work, file, options, loop=loop))


@with_options("s2connect bridge check bridge.toml", home=False)
def check(options: Options, file: FileArgument) -> ExitCode:
    """Check the file of a bridge: every mistake is named with its line. Changes nothing.

    Exit code 0 if it can be used (warnings are allowed), otherwise 2.
    """
    from s2connect.bridge.config_file import load

    config, warnings = _of_file(asyncio.to_thread(load, file), file, options)
    routes = ", ".join(f"{r.name} ({r.devices.type} -> {r.manager.type})" for r in config.routes)
    sentences = [*(f"{file}: {warning}" for warning in warnings), f"{file} can be used. Routes: {routes}."]
    options.report({"file": str(file), "home": str(config.home), "problems": warnings}, *sentences)
    return ExitCode.OK


def _of_file(work: Coroutine[Any, Any, Any], file: Path, options: Options, *, loop: LoopChoice = "asyncio") -> Any:
    """Run work on a file; its mistakes get a line each."""
    from s2connect.bridge.problems import BridgeFileError

    try:
        return run_work(work, loop=loop)
    except BridgeFileError as error:
        if not options.as_json:
            for problem in error.problems:
                tell(f"{error.file}: {problem}")
        what = f"{error.file} has {counted(sum(problem.fatal for problem in error.problems), 'mistake')}."
        details = {"problems": error.problems}
        raise Failure(error.kind, what, error.hint, code=ExitCode.USAGE, details=details) from None
    except S2ConnectError as error:
        error.hint = in_bridge(error.hint, str(file))
        raise


@with_options("s2connect bridge status bridge.toml --watch")
def status(
    options: Options,
    file: RunningFileArgument = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, once a second, until Ctrl-C.")] = False,
) -> None:
    """Show every link of a running bridge: its state, both sides, and what became of the messages."""
    from s2connect.cli.bridge_show import bridge_blocks
    from s2connect.service.commands import ShowBridge

    async def work() -> None:
        async with _reached(file, options) as control:
            while True:
                bridge = (await control.ask(ShowBridge())).bridge
                if watch and not options.as_json and (out := console()).is_terminal:
                    out.clear()
                options.show(bridge, partial(bridge_blocks, bridge))
                if not watch:
                    return
                await asyncio.sleep(1)

    run_work(work())


@with_options("s2connect bridge reload bridge.toml")
def reload(options: Options, file: RunningFileArgument = None) -> None:
    """Have a running bridge read its file again, and print the changes."""
    from s2connect.cli.show import reload_sentence
    from s2connect.service.commands import Reload

    async def work() -> dict[str, Any]:
        async with _reached(file, options) as control:
            return (await control.ask(Reload())).reloaded

    done = run_work(work())
    options.report(done, reload_sentence(done))


@with_options(
    "s2connect bridge pair bridge.toml", "s2connect bridge pair bridge.toml --route house --another", home=False
)
def pair(
    options: Options,
    file: FileArgument,
    route: Annotated[str | None, typer.Option("--route", metavar="NAME", help="Only this route.")] = None,
    device_url: Annotated[
        str | None,
        typer.Option("--device-url", metavar="URL", help="Go to a device that shows URL and code, instead of waiting."),
    ] = None,
    manager_url: Annotated[
        str | None, typer.Option("--manager-url", metavar="URL", help="Pairing URL that the energy manager shows.")
    ] = None,
    another: Annotated[bool, typer.Option("--another", help="Wait for one more device.")] = False,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1, max=300, help="Longest wait for a device, and for a line of a program."),
    ] = 300,
) -> ExitCode:
    """Pair the devices with a running bridge, and what represents them with the energy manager. Safe to run again.

    Codes are asked for, or read from standard input, one a line. The code of the energy manager is tried for every
    device that it does not know yet.
    """
    from s2connect.cli.bridge_pairing import lead

    lines = Lines("what was paired stays paired.", interactive=sys.stdin.isatty() and not options.as_json)

    async def work() -> dict[str, Any]:
        async with _reached(file, options) as control, lines:
            return await lead(
                control, lines, route, device_url=device_url, manager_url=manager_url, another=another, wait=wait
            )

    result = run_work(work())
    left = [name for one in result["routes"] for name in one["left"]]
    without = [one["name"] for one in result["routes"] if one["without_device"]]
    if left:
        sentence = f"The energy manager does not know yet: {', '.join(left)}. Run the command again."
    elif without:
        sentence = f"No device is paired yet in: {', '.join(without)}. Run the command again."
    else:
        sentence = f"All is paired. See it with: s2connect bridge status {file}"
    options.report(result, sentence)
    return ExitCode.PAIRING if left or without else ExitCode.OK


@contextlib.asynccontextmanager
async def _reached(file: Path | None, options: Options) -> AsyncIterator[Control]:
    """Reach the running bridge of a file or home."""
    from s2connect.bridge.config_file import home_of, instance_of
    from s2connect.service.control import connect
    from s2connect.store.home import Home

    hint = f"Start it with: s2connect bridge run {file or 'FILE'}"
    try:
        home = await asyncio.to_thread(lambda: Home.open(options.path if file is None else home_of(file)))
    except NotInitialised as error:
        raise Failure(NO_SERVICE, f"No bridge is running: {error.what}", hint) from None
    instance = await asyncio.to_thread(instance_of, file) if file is not None else ""
    async with connect(home, instance) as control:
        if control is None:
            raise Failure(NO_SERVICE, "The bridge is not running.", hint)
        yield control


register(app, run, check, status, reload, pair)
