"""The demonstration of ``s2connect demo``: a bridge between simulated devices and a cloud, each in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from s2connect.demo import files
from s2connect.demo.broker import Broker
from s2connect.demo.program import Object, Program
from s2connect.service.commands import Code, ShowBridge
from s2connect.service.control import Control, connect
from s2connect.service.failures import ExitCode, Failure
from s2connect.service.signals import until_terminated
from s2connect.store.home import Home

STEP_TIMEOUT: Final = 30.0
"""Seconds that each step may take."""

CONVERSATION: Final = 5.0
"""Least seconds for which the conversation is shown."""

LONGEST_CONVERSATION: Final = 10.0
"""Most seconds, where not every device is instructed; for the solar roof that depends on the weather."""

LOOK_AGAIN: Final = 0.1
"""Seconds between two looks at the bridge."""

MAX_LINES: Final = 3
"""Lines of the same kind for one device."""

FUSE_LIMIT: Final = 2_500
"""W that the house of the demonstration may give to the grid: little, so that the sun has to be limited."""

Narrator = Callable[[str, str, dict[str, Any]], None]
"""Callback for each step: its name, a sentence, and details for programs."""


class _Device(NamedTuple):
    name: str
    route: str
    kind: str
    control_type: str
    what: str


_BATTERY: Final = _Device(
    "Battery", files.OVER_WEBSOCKET, "battery", "frbc", "a battery, controlled by fill rate (FRBC)"
)
_SUN: Final = _Device("Solar roof", files.OVER_MQTT, "pv", "pebc", "solar panels, controlled by power envelopes (PEBC)")
_OLD: Final = _Device(files.OLD_NAME, files.OLD, "heat-pump", "ddbc", "a hybrid heat pump")
_NAMES: Final = (_BATTERY.name, _SUN.name, _OLD.name)
_PROTOCOLS: Final = {"X-MQTT5-0": "MQTT 5, sealed", "S2-WebSocket": "plain WebSocket"}
_SENDERS: Final = {"rm": "device", "cem": "cloud"}


async def run(tell: Narrator, *, log_dir: Path | None, verbose: bool, embedded: bool = False) -> None:
    """Run the demonstration; without ``log_dir`` the logs of all processes are deleted.

    Raises:
        Failure: A step failed or took too long.
    """
    if await until_terminated(_run(tell, log_dir, verbose, embedded), name="s2connect-demo"):
        raise Failure("terminated", "The demonstration was stopped.")


async def _run(tell: Narrator, log_dir: Path | None, verbose: bool, embedded: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="s2connect-demo-") as temporary:
        directory = Path(temporary)
        logs = log_dir or directory
        await asyncio.to_thread(logs.mkdir, parents=True, exist_ok=True)
        broker, old_url = await asyncio.to_thread(files.prepare, directory, logs, embedded=embedded)
        await _Demo(tell, directory, broker, old_url, logs, verbose).run()


@dataclass(eq=False, repr=False)
class _Demo:
    tell: Narrator
    directory: Path
    broker: Broker
    old_url: str
    logs: Path
    verbose: bool

    def __post_init__(self) -> None:
        self._bridge_file = str(self.directory / files.BRIDGE_FILE)
        self._time = ["--speed", str(files.speed())]
        self._showing = False
        self._all_instructed = asyncio.Event()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._programs: dict[str, Program] = {}
        self._told: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        self.tell("broker", f"The MQTT broker is {self.broker.title}.", {"url": self.broker.url})
        async with contextlib.AsyncExitStack() as stack:
            async with self._step("start the broker"):
                await stack.enter_async_context(self.broker)
            home = ["--home", str(self.directory / files.CLOUD), "--fuse-limit", str(FUSE_LIMIT)]
            self._cloud = self._program(
                files.CLOUD, "simulate", "cem", "--many", *home, *self._time, watch=self._heard_cloud
            )
            self._bridge = self._program(files.BRIDGE, "bridge", "run", self._bridge_file)
            async with self._step("start cloud and bridge"):
                await asyncio.gather(*map(stack.enter_async_context, (self._cloud, self._bridge)))
                code, ready = await asyncio.gather(self._cloud.wait("code"), self._bridge.wait("bridge_ready"))
            self.tell(
                "cloud",
                "In the cloud an energy manager is running, for WebSocket and MQTT. For the whole building it shows one"
                f" code: {code['code']}.",
                {"pairing_url": code["pairing_url"], "code": code["code"]},
            )
            self.tell(
                "bridge",
                "In the building a bridge is running. It connects to the cloud; nobody connects in.",
                {"routes": [route["name"] for route in ready["routes"]]},
            )
            bridge = await asyncio.to_thread(Home.open, self.directory / files.BRIDGE)
            control = await stack.enter_async_context(connect(bridge))
            assert control is not None
            await self._meet_devices(control, stack)
            await self._pair_with_cloud(code)
            await self._show_links(control)
            await self._show_conversation()
            await self._lose_broker(control)
            await self._count(control)
        self.tell("end", "All processes have ended, and everything they wrote is removed.", {})

    # The processes

    def _program(self, name: str, *arguments: str, **more: Any) -> Program:
        log = self.logs / f"{name.lower().replace(' ', '-')}.log"
        verbose = ["--verbose"] if self.verbose else []
        return Program(name, [*arguments, *verbose], log, **more)

    def _device_program(self, device: _Device, *arguments: str, typed: str = "") -> Program:
        options = ["--control-type", device.control_type, "--name", device.name, "--measure-every", "300", *self._time]
        command = ("simulate", "rm", device.kind, *options, *arguments)
        watch = functools.partial(self._heard_device, device.name)
        program = self._programs[device.name] = self._program(device.name, *command, typed=typed, watch=watch)
        return program

    # The steps

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

    async def _meet_devices(self, control: Control, stack: contextlib.AsyncExitStack) -> None:
        nodes = {r["name"]: r["devices"].get("node") for r in await _routes(control)}
        codes = {device: await control.ask(Code(node=nodes[device.route])) for device in (_BATTERY, _SUN)}
        async with self._step("pair the devices with the bridge"):
            for device, code in codes.items():
                arguments = ["--pair", str(code.pairing_url), "--bind", files.LOCAL, "--host", files.LOCAL]
                program = self._device_program(device, *arguments, typed=code.code + "\n")
                await stack.enter_async_context(program)
            for device in codes:
                await self._bridge.wait("paired", node=nodes[device.route])
        for device, code in codes.items():
            text = f"{device.name}, {device.what}, is paired with the bridge by the code {code.code}."
            self.tell("device", text, {"device": device.name, "code": code.code})
        token_file = str(self.directory / files.TOKEN_FILE)
        await stack.enter_async_context(self._device_program(_OLD, "--plain", self.old_url, "--token-file", token_file))
        text = f"{_OLD.name}, {_OLD.what}, is an old device: plain S2 0.0.2-beta with a token, and no pairing."
        self.tell("device", text, {"device": _OLD.name})

    async def _pair_with_cloud(self, code: Object) -> None:
        # URL and code for each route, as somebody at the terminal would type them.
        typed = f"{code['pairing_url']} {code['code']}\n" * len(_NAMES)
        program = self._program("pair", "bridge", "pair", self._bridge_file, typed=typed)
        async with self._step("pair with the cloud"), program:
            result = await program.result()
        names = [_device_of(one["link"]) for route in result["routes"] for one in route["representatives"]]
        text = (
            "`s2connect bridge pair`: the cloud's code has paired all three with the cloud, each as a node of its own."
        )
        self.tell("paired", text, {"devices": names})

    async def _links_are(self, control: Control, up: Collection[str]) -> list[Object]:
        """Wait until exactly the links of these devices are up."""
        while True:
            links = await _links(control)
            if {_device_of(link["name"]) for link in links if link["state"] == "up"} == set(up):
                return links
            await asyncio.sleep(LOOK_AGAIN)

    async def _show_links(self, control: Control) -> None:
        async with self._step("open the sessions"):
            links = await self._links_are(control, _NAMES)
        self.tell("sessions", "The sessions open by themselves, each from end to end or not at all:", {})
        for link in links:
            device, cloud = ((side["protocol"], side["s2_version"]) for side in map(link["sides"].get, ("rm", "cem")))
            ways = [f"{_PROTOCOLS.get(protocol, protocol)}, S2 {version}" for protocol, version in (device, cloud)]
            name, translated = _device_of(link["name"]), device[1] != cloud[1]
            text = f"{name} -- {ways[0]} -- bridge -- {ways[1]} -- cloud{', translated' if translated else ''}"
            details = {"device_side": device, "cloud_side": cloud, "translated": translated}
            self.tell("link", text, {"device": name, **details})

    async def _show_conversation(self) -> None:
        self.tell("talk", "What they say to each other, unchanged byte for byte where nothing is translated:", {})
        self._showing = True
        for text, details in self._waiting:
            self.tell("message", text, details)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_CONVERSATION):
                await self._all_instructed.wait()
                await asyncio.sleep(began + CONVERSATION - loop.time())
        self._showing = False

    async def _lose_broker(self, control: Control) -> None:
        others = [_SUN.name, _OLD.name]
        async with self._step("end the broker"):
            await self.broker.stop()
            began = time.monotonic()
            await self._links_are(control, [_BATTERY.name])
            await asyncio.gather(*(self._programs[name].wait("disconnected") for name in others))
            await asyncio.gather(*(self._cloud.wait("disconnected") for _ in others))
        seconds = max(0.1, time.monotonic() - began)
        text = (
            f"The broker is killed. Within {seconds:.1f} s {_SUN.name}, {_OLD.name} and the cloud know that their"
            f" sessions are over; {_BATTERY.name} goes on over WebSocket."
        )
        self.tell("broker_lost", text, {"seconds": round(seconds, 1)})
        async with self._step("see everything come back"):
            await self.broker.start()
            began = time.monotonic()
            await self._links_are(control, _NAMES)
        seconds = time.monotonic() - began
        text = f"The broker is started again: after {seconds:.1f} s everything is back by itself."
        self.tell("broker_back", text, {"seconds": round(seconds, 1)})

    async def _count(self, control: Control) -> None:
        counts: dict[str, dict[str, dict[str, int]]] = {}
        sums = Counter[str]()
        for link in await _links(control):
            counts[_device_of(link["name"])] = {_SENDERS[side]: link["messages"][side] for side in _SENDERS}
            for side in _SENDERS:
                sums.update(link["messages"][side])
        text = "Every answer came from the other end: the bridge says OK for nobody."
        if cut_off := sums["forwarded"] - sums["acknowledged"] - sums["unanswered"]:
            text += f" {cut_off} had none yet when the sessions ended with the broker; who sent them knows that."
        self.tell("messages", text, {"messages": counts})

    # Events of the processes

    def _heard_cloud(self, event: Object) -> None:
        if event.get("event") == "instructed":
            name, _, what = event["text"].partition(": ")
            kind = event["message"]["message_type"]
            text = f"cloud to {name}: {what}"
            self._heard(name, "instruction" if kind.endswith("Instruction") else "choice", text, event, kind=kind)

    def _heard_device(self, name: str, event: Object) -> None:
        if event.get("event") in ("note", "state"):
            self._heard(name, event["event"], f"{name} {event['text']}", event)

    def _heard(self, name: str, what: str, text: str, event: Object, **details: Any) -> None:
        self._told[name, what] += 1
        if self._told[name, what] > MAX_LINES or (what == "note" and self._told[name, text] > 0):
            return
        self._told[name, text] += 1
        if all(self._told[known, "instruction"] for known in _NAMES):
            self._all_instructed.set()
        said = text, {"device": name, "at": event["at"], **details}
        if self._showing:
            self.tell("message", *said)
        else:
            self._waiting.append(said)


async def _routes(control: Control) -> list[Object]:
    routes: list[Object] = (await control.ask(ShowBridge())).bridge["routes"]
    return routes


async def _links(control: Control) -> list[Object]:
    return [link for route in await _routes(control) for link in route["links"]]


def _device_of(link: str) -> str:
    """Return the device that a link is named after, behind its route."""
    return link.partition("/")[2]
