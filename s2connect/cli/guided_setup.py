"""Dialogue of ``s2connect setup``: asks what no option says, and reports each step."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from s2connect import EndpointConfig, NodeDescription, NodeId, Role
from s2connect.cli import codes
from s2connect.cli.pairing import Dialogue
from s2connect.cli.show import ROLES, sentence, titled
from s2connect.cli.terminal import Options, ask_person, print_json, say, tell
from s2connect.errors import PeerTimeout, UsageError
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import in_groups
from s2connect.service import events, guided_setup
from s2connect.service.commands import Code, IssuedCode
from s2connect.service.events import Sink
from s2connect.service.guided_pairing import GuidedPairing
from s2connect.service.guided_setup import DEVICE_KINDS, MANAGER_KIND, GuidedSetup, Prepared, Program
from s2connect.service.objects import PairingEntry, name_of, own_node, rfc3339
from s2connect.service.setup import existing

NOTHING: Final = "nothing"  # behaviour of a node whose program is another one
CODE_LIFETIME: Final = 300.0  # seconds for which the other side is awaited at our code
FIRST_TO_SPEAK: Final = "The program of the device has to send the first one (ResourceManagerDetails)."

_ROLE_QUESTION: Final = """What is this machine?
1  a device, e.g. a heat pump, charger, battery or inverter
2  an energy manager"""
_ROLES: Final = {"1": Role.RM, "rm": Role.RM, "device": Role.RM, "2": Role.CEM, "cem": Role.CEM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers that the options have given; None is asked for, or takes its default where nobody can be asked."""

    node: dict[str, object]
    settings: dict[str, Any]
    url: BaseUrl | None
    waiting: str | None
    show_code: bool
    trial: bool
    simulate: str | None
    alias: str | None
    connect_to: str | None
    wait: float

    @property
    def say_how_to_pair(self) -> bool:
        """Return whether they say how to pair."""
        return self.url is not None or self.waiting is not None or self.show_code or self.trial


class Reporter(Sink):
    """Reports each step: as JSON object a line for programs, or as sentences."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.as_json = options.as_json

    def step(self, name: str, facts: dict[str, Any], *sentences: str) -> None:
        """Report a step that is done. A sentence that begins with two blanks is a line to copy."""
        if self.as_json:
            print_json({"event": name, "time": rfc3339(datetime.now(UTC)), **facts})
            return
        for text in sentences:
            if text.startswith("  "):
                print(text, flush=True)  # to be copied: never broken in two
            else:
                say(text)

    def command(self, name: str) -> str:
        """Return a command on this state directory as a person types it."""
        line = self._options.command_line(name)
        if name.startswith("simulate ") and self._options.home is None:  # it keeps nothing without --home
            return f"{line} --home {shlex.quote(str(self._options.path))}"
        return line

    async def put(self, event: events.Event) -> None:
        self.put_nowait(event)

    def put_nowait(self, event: events.Event) -> None:
        """Show what somebody at the other side does; the steps themselves are reported by :meth:`step`."""
        if self.as_json:
            return
        if isinstance(event, events.AttemptFailed | events.Warned | events.DeviceWaiting) and (text := sentence(event)):
            tell(text)
        elif isinstance(event, events.PairingAnnounced):
            who = name_of(event.peer) if event.peer is not None else "An energy manager"
            shown = in_groups(event.code) if isinstance(event.code, str) else "the one on its sticker"
            tell(f"\n{who} wants to pair with this one. Type its code there:")
            print(f"  {shown}", file=sys.stderr, flush=True)  # never broken in two


async def lead(path: Path, answers: Answers, report: Reporter) -> None:
    """Set up, pair, wait for the session and its first message, and say what to do next."""
    interactive = sys.stdin.isatty() and not report.as_json
    prepared = await _prepare(path, answers, report, interactive=interactive)
    own = _own_node(prepared.config, answers.alias)
    async with contextlib.AsyncExitStack() as stack:
        steps = await stack.enter_async_context(guided_setup.reach_service(path, own[0]))
        behaviour = NOTHING
        if steps is not None:
            if answers.simulate is not None:
                raise UsageError(
                    "The service is running, and its own program has the sessions.",
                    hint="Leave --simulate out, or stop the service first.",
                )
            report.step("service", {"running": True}, "The service is running; this goes through it.")
        else:
            behaviour = await _behaviour(own[1], answers, interactive=interactive)
            program = _program(behaviour)
            steps = await stack.enter_async_context(guided_setup.run_endpoint(path, own[0], program, report))
        await _Leader(steps, prepared, own[1], answers, report, behaviour, interactive).lead()


async def _prepare(path: Path, answers: Answers, report: Reporter, *, interactive: bool) -> Prepared:
    found = await asyncio.to_thread(existing, path)
    node, settings = dict(answers.node), dict(answers.settings)
    if found is None:
        if not interactive and not answers.say_how_to_pair:
            raise _nobody_to_ask()
        if node["role"] is None and interactive:
            node["role"] = await _ask_role()
        if node["user_defined_name"] is None and interactive:
            name = await ask_person("Its name, as the other side shows it (Enter for none): ")
            node["user_defined_name"] = name or None
        settings["name"] = node["user_defined_name"]
    prepared = await asyncio.to_thread(guided_setup.prepare, path, node, settings)
    config = prepared.config
    what = f"{ROLES[prepared.role]} ({prepared.role})"
    where = f"Others reach it as {config.host}, port {config.port}."
    if prepared.made:
        sentences = [f"Set up: a{'n' * (prepared.role is Role.CEM)} {what} in {path}.", where]
    else:
        sentences = [f"Set up already: a{'n' * (prepared.role is Role.CEM)} {what} in {path}. {where}"]
    facts = {"home": str(path), "made": prepared.made, "role": prepared.role, "host": config.host, "port": config.port}
    report.step("set_up", {**facts, "node": str(config.nodes[0].id)}, *sentences)
    return prepared


async def _ask_role() -> Role:
    tell(_ROLE_QUESTION)
    while (role := _ROLES.get((await ask_person("Number: ")).lower())) is None:
        tell("Type 1 or 2.")
    return role


def _nobody_to_ask() -> UsageError:
    return UsageError(
        "Nobody can be asked here how to pair.",
        hint="Say it: --url URL (its code is read from standard input), --show-code, --waiting DEVICE, or --trial.",
    )


def _own_node(config: EndpointConfig, alias: str | None) -> tuple[NodeId, Role]:
    fitting = [one for one in config.nodes if alias is None or alias in (one.alias, str(one.id))]
    if len(fitting) != 1:
        names = ", ".join(f"{one.alias or one.id} ({one.role})" for one in config.nodes)
        raise UsageError(f"Which node of this endpoint? There are: {names}.", hint="Name it with --node.")
    return fitting[0].id, fitting[0].role


async def _behaviour(role: Role, answers: Answers, *, interactive: bool) -> str:
    """Return what our node is to do without a program of its own: simulate something, or nothing."""
    kinds = (*DEVICE_KINDS, NOTHING) if role is Role.RM else (MANAGER_KIND, NOTHING)
    if answers.simulate is not None:
        if answers.simulate not in kinds:
            raise UsageError(f"This is a{'n' * (role is Role.CEM)} {ROLES[role]}, which simulates: {', '.join(kinds)}.")
        return answers.simulate
    if role is Role.CEM or not (interactive or answers.trial):
        return NOTHING
    if answers.trial:
        return DEVICE_KINDS[0]
    tell("No program speaks for this device yet, so it has nothing to say. What shall it simulate meanwhile?")
    question = f"{', '.join(kinds)} (Enter: {kinds[0]}): "
    while (answer := (await ask_person(question)).lower() or kinds[0]) not in kinds:
        tell("Type one of these words.")
    return answer


def _program(behaviour: str) -> Program | None:
    if behaviour == NOTHING:
        return None
    from s2connect.service.simulated import simulated_program  # loads the simulators

    return simulated_program(behaviour)


@dataclass(frozen=True, slots=True)
class _Leader:
    steps: GuidedSetup
    prepared: Prepared
    role: Role
    answers: Answers
    report: Reporter
    behaviour: str
    interactive: bool

    async def lead(self) -> None:
        before = await self.steps.pairings()
        if before and not self.answers.say_how_to_pair and not await self._wants_another(before):
            connected = [one for one in before if one.connected]
            await self._watch((connected or before)[0].peer)
            return
        if not self.answers.say_how_to_pair and not self.interactive:
            raise _nobody_to_ask()
        if self.answers.trial:
            await self._try()
            return
        pairing = await self._pair(before)
        if pairing is None:
            await self._try()
            return
        who = titled(pairing.peer)
        self.report.step("paired", {"pairing": pairing}, f"Paired with {who}.")
        await self._watch(pairing.peer)

    async def _wants_another(self, known: Sequence[PairingEntry]) -> bool:
        names = ", ".join(name_of(one.peer) for one in known[:10]) + (", …" if len(known) > 10 else "")
        tell(f"Paired already with: {names}.")
        if not self.interactive:
            return False
        return (await ask_person("Pair with another one? [y/N] ")).lower() in ("y", "yes")

    # Pairing

    async def _pair(self, before: Sequence[PairingEntry]) -> PairingEntry | None:
        """Pair as the options or the person say; None for a trial. A pairing from the other side counts as well."""
        known = {one.peer.id: one for one in before}
        if self.answers.show_code:
            return await self._await_other_side(known)
        if self.answers.url is not None and (paired := await self._known_at(self.answers.url, known)) is not None:
            return paired
        picking = asyncio.create_task(self._pick(known), name="s2connect-cli-setup-pick")
        coming = asyncio.create_task(self.steps.next_pairing(known, float("inf")), name="s2connect-cli-setup-coming")
        try:
            await asyncio.wait({picking, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not picking.done():
                tell("")  # after the question
            return picking.result() if picking.done() else coming.result()
        finally:
            for task in (picking, coming):
                task.cancel()
            await asyncio.gather(picking, coming, return_exceptions=True)

    async def _known_at(self, url: BaseUrl, known: dict[NodeId, PairingEntry]) -> PairingEntry | None:
        """Return the pairing with a node of this URL that stands already: the command may be run again."""
        nodes = await self._guided().nodes(url) or [] if known else []
        return next((known[node.id] for node in nodes if node.id in known), None)

    def _guided(self) -> GuidedPairing:
        return GuidedPairing(self.steps.reached, node=str(self.steps.node), connect_to=self.answers.connect_to)

    async def _pick(self, known: dict[NodeId, PairingEntry]) -> PairingEntry | None:
        code = None if self.interactive else await _code_from_stdin()
        dialogue = Dialogue(self._guided(), code, interactive=self.interactive)
        if self.answers.waiting is not None:
            return await dialogue.pair_waiting(self.answers.waiting)
        if self.answers.url is not None:
            return await dialogue.pair_url(self.answers.url)
        picked = await dialogue.pick(
            {
                "c": "show a code of this one, to be typed at the other side",
                "t": f"try it with a simulated {ROLES[self.role.other]} on this machine",
            }
        )
        if picked == "c":
            return await self._await_other_side(known)
        return picked if isinstance(picked, PairingEntry) else None

    async def _await_other_side(self, known: dict[NodeId, PairingEntry]) -> PairingEntry:
        # A device without a server gets its static code here, but one that has been printed stays as it is.
        own = own_node((await self.steps.status()).nodes, str(self.steps.node))
        static = not self.prepared.config.server and not own.static_code
        issued = await self.steps.reached.ask(Code(node=str(self.steps.node), static=static))
        self._show(issued)
        return await self.steps.next_pairing(known, max(self.answers.wait, CODE_LIFETIME))

    def _show(self, issued: IssuedCode) -> None:
        lines = [str(line) for line in codes.block(issued.code, issued.expires_at, issued.pairing_url)]
        lines.append("Waiting for the other side … (Ctrl-C stops)")
        self.report.step("pairing_code", vars(issued), *lines)

    # After it

    async def _try(self) -> None:
        from s2connect.service.simulated import trial  # loads the simulators

        other = f"simulated {ROLES[self.role.other]}"
        tell(f"Trying with a {other} on this machine …")
        async with trial(self.steps, self.prepared.config, self.role) as pairing:
            self.report.step("paired", {"pairing": pairing, "trial": True}, f"Paired with the {other}.")
            message = await self._messages(pairing.peer)
        self.report.step(
            "done",
            self._result(pairing.peer, message, trial=True),
            "It works. The trial is over: its pairing has ended, and nothing of it is left.",
            "Next, pair with the real one:",
            f"  {self.report.command('setup')}",
        )

    async def _watch(self, peer: NodeDescription) -> None:
        message = await self._messages(peer)
        if not self.steps.is_service and message is not None:
            await asyncio.sleep(guided_setup.LINGER)
        self.report.step("done", self._result(peer, message), *self._next(message))

    async def _messages(self, peer: NodeDescription) -> dict[str, Any] | None:
        """Wait for the session and its first message, and report both; None if no message can be seen here."""
        tell(f"Waiting for the session with {name_of(peer)} …")
        visible = await self.steps.session(peer, self.answers.wait)
        self.report.step("session_opened", {"peer": peer}, f"Session with {name_of(peer)}: open.")
        if not visible:
            return None
        if self.role is Role.RM and not self.steps.behaves:
            say(f"No message is to be seen yet. {FIRST_TO_SPEAK}", error=True)
            return None
        found = await self.steps.first_message(peer, self.answers.wait)
        if found is None or found.first_message is None:
            raise PeerTimeout(
                f"The session with {name_of(peer)} is open, but no message came within {self.answers.wait:.0f} s.",
                hint=FIRST_TO_SPEAK,
            )
        first = found.first_message
        way = f"sent to {name_of(peer)}, which" if first.direction == "sent" else f"from {name_of(peer)}, and this side"
        text = f"First message: {for_display(first.type, 60)}, {way} has accepted it."
        facts = {"direction": first.direction, "type": first.type}
        self.report.step("first_message", facts, text)
        return facts

    def _result(self, peer: NodeDescription, message: dict[str, Any] | None, *, trial: bool = False) -> dict[str, Any]:
        return {
            "peer": peer,
            "first_message": message,
            "trial": trial,
            "service_running": self.steps.is_service,
            "next": self.report.command("status" if self.steps.is_service else self._kept_by()),
        }

    def _kept_by(self) -> str:
        """Return the command that goes on with what this one has done."""
        if self.behaviour == NOTHING:
            return "serve"
        return "simulate cem" if self.role is Role.CEM else f"simulate rm {self.behaviour}"

    def _next(self, message: dict[str, Any] | None) -> list[str]:
        head = "It works. " if message is not None else ""
        if self.steps.is_service:
            return [f"{head}See it with:", f"  {self.report.command('status')}"]
        lines = [f"{head}This command ends now, and the session with it; the pairing stays."]
        lines += ["Next, to keep it running:", f"  {self.report.command(self._kept_by())}"]
        if self.behaviour != NOTHING:
            lines += ["With a program of your own (or with the library):", f"  {self.report.command('serve --json')}"]
        lines.append("To have it start with the machine: docs/howto/systemd.md.")
        return lines


async def _code_from_stdin() -> str:
    from s2connect.cli.terminal import line_from_stdin

    return await asyncio.to_thread(line_from_stdin, "the pairing code")
