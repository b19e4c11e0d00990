"""``s2connect demo``: two real sidecars on this machine, driven as other software would drive them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from s2connect.cli import demo_battery as battery
from s2connect.cli.failures import ExitCode, Failure
from s2connect.cli.sidecar import Object, Sidecar, end, start

STEP_TIMEOUT = 30.0
"""Seconds that each step may take."""

Narrator = Callable[[str, str, dict[str, Any]], None]
"""Told of each step: its name, a sentence, and details for programs."""


async def run(tell: Narrator, *, log_dir: Path | None, verbose: bool) -> None:
    """Run the demonstration.

    Args:
        tell: Told of each step.
        log_dir: Where the logs of both sides stay; None throws them away.
        verbose: Whether the sides log in detail.

    Raises:
        Failure: A step failed or took too long.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        with tempfile.TemporaryDirectory(prefix="s2connect-demo-") as directory:
            place = Path(directory)
            logs = log_dir or place
            await asyncio.to_thread(logs.mkdir, parents=True, exist_ok=True)
            await _Demo(tell, place, logs, verbose).run()
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise
        raise Failure("terminated", "The demonstration was stopped.") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class _Demo:
    def __init__(self, tell: Narrator, place: Path, logs: Path, verbose: bool) -> None:
        self._tell = tell
        self._place = place
        self._logs = logs
        self._verbose = verbose

    async def run(self) -> None:
        async with self._step("set up the two sides"):
            await asyncio.gather(
                self._init("cem", "--name", "Energy manager", "--brand", "Example", "--model", "EMS 1"),
                self._init("rm", "--name", "Home battery", "--brand", "Example", "--model", "Battery 10"),
            )
        self._tell("setup", "Two state directories are set up: an energy manager (CEM) and a home battery (RM).", {})
        async with self._sidecar("energy manager", "cem") as cem, self._sidecar("battery", "rm") as rm:
            await self._pair(cem, rm)
            await self._talk(cem, rm)
            await self._part(cem, rm)
        self._tell("end", "Both processes have ended, and their state directories are removed.", {})

    def _sidecar(self, name: str, role: str) -> Sidecar:
        return Sidecar(name, self._place / role, self._logs / f"{role}.log", verbose=self._verbose)

    @contextlib.asynccontextmanager
    async def _step(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(STEP_TIMEOUT):
                yield
        except TimeoutError:
            sentence = f"The demonstration could not {what} within {STEP_TIMEOUT:.0f} s."
            raise Failure("demo_timeout", sentence, "See the logs: s2connect demo --verbose --log-dir DIR") from None
        except Failure as error:
            sentence = f"The demonstration could not {what}: {error.what}"
            raise Failure("demo_failed", sentence, error.hint, code=ExitCode.FAILED) from error

    async def _init(self, role: str, *settings: str) -> None:
        local = ["--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", "0", "--vault", "files"]
        arguments = ["init", "--json", "--home", str(self._place / role), "--role", role, *local, *settings]
        process = await start(arguments, self._logs / f"{role}.log")
        try:
            assert process.stdout is not None
            said = await process.stdout.read()
            code = await process.wait()
        finally:
            await end(process)
        if code != 0:
            raise Failure.from_object(json.loads(said).get("error") if said else None)

    async def _pair(self, cem: Sidecar, rm: Sidecar) -> None:
        async with self._step("start the two sides"):
            ready, code, _ = await asyncio.gather(cem.wait("ready"), cem.wait("pairing_code"), rm.wait("ready"))
        self._tell(
            "code",
            f"The energy manager shows its pairing URL {ready['pairing_url']} and the code {code['code']}.",
            {"pairing_url": ready["pairing_url"], "code": code["code"], "expires_at": code["expires_at"]},
        )
        async with self._step("pair"):
            result = await rm.command("pair", url=ready["pairing_url"], code=code["code"])
            await cem.wait("paired")
        details = {k: result[k] for k in ("peer", "communication_role")}
        text = (
            "Its user types both at the battery. Each proves to the other that it knows the code, which never travels."
        )
        self._tell("paired", f"{text} They are paired.", details)
        async with self._step("open a session"):
            opened, at_rm = await asyncio.gather(cem.wait("session_opened"), rm.wait("session_opened"))
        self._cem_session, self._rm_session = opened["session"], at_rm["session"]
        self._tell(
            "session",
            f"The battery connects to the energy manager by itself; they speak S2 {opened['s2_version']}.",
            {"protocol": opened["protocol"], "s2_version": opened["s2_version"]},
        )

    async def _talk(self, cem: Sidecar, rm: Sidecar) -> None:
        level = battery.FILL_LEVEL_AT_START
        await self._from_rm(
            cem, rm, battery.resource_manager_details(), "says what it is and how it can be controlled."
        )
        await self._from_cem(cem, rm, battery.select_control_type(), "chooses fill rate based control.")
        size, power = battery.CAPACITY_WH / 1000, battery.MAX_POWER_W / 1000
        text = f"describes itself: {size:.0f} kWh, up to {power:.0f} kW in and out."
        await self._from_rm(cem, rm, battery.system_description(), text)
        await self._from_rm(cem, rm, battery.actuator_status(0.0), "reports that its inverter stands still.")
        await self._from_rm(cem, rm, battery.storage_status(level), f"reports that it is {level:.0f} % full.")
        await self._from_rm(cem, rm, battery.power_measurement(0.0), "measures a power of 0 W.")
        order = battery.instruction(battery.CHARGE_W)
        kilowatts = f"{battery.CHARGE_W / 1000:.0f} kW"
        await self._from_cem(cem, rm, order, f"has sun to spare and instructs the battery to charge with {kilowatts}.")
        for status, text in (("ACCEPTED", "accepts the instruction."), ("STARTED", "starts to charge.")):
            await self._from_rm(cem, rm, battery.instruction_status(order["id"], status), text)
        await self._from_rm(cem, rm, battery.actuator_status(battery.CHARGE_W), "reports what its inverter does now.")
        await self._from_rm(cem, rm, battery.power_measurement(battery.CHARGE_W), f"measures {kilowatts}.")
        level += battery.fill_rate(battery.CHARGE_W) * 600
        text = f"reports the fill level as it will be ten minutes later: {level:.0f} %."
        await self._from_rm(cem, rm, battery.storage_status(level), text)

    async def _part(self, cem: Sidecar, rm: Sidecar) -> None:
        async with self._step("unpair"):
            paired = (await rm.command("status"))["pairings"][0]
            await rm.command("unpair", peer=paired["peer"]["id"])
            told = await cem.wait("unpaired")
            await asyncio.gather(cem.wait("session_closed"), rm.wait("session_closed"))
        self._tell("unpaired", "The battery ends the pairing; the energy manager hears it at once.", {"by": told["by"]})

    async def _from_rm(self, cem: Sidecar, rm: Sidecar, message: Object, text: str) -> None:
        await self._send(rm, self._rm_session, cem, message, f"The battery {text}")

    async def _from_cem(self, cem: Sidecar, rm: Sidecar, message: Object, text: str) -> None:
        await self._send(cem, self._cem_session, rm, message, f"The energy manager {text}")

    async def _send(self, sender: Sidecar, session: str, receiver: Sidecar, message: Object, text: str) -> None:
        kind = message["message_type"]
        async with self._step(f"send {kind}"):
            await sender.command("send", session=session, message=message)
            received = await receiver.message(kind)
        self._tell("message", text, {"from": sender.name, "message": received})
