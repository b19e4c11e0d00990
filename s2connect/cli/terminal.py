"""Input, output and logs on the terminal, options that commands share, and running work until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Literal, Self, TypeVar

import typer

from s2connect.errors import UsageError
from s2connect.service.event_loop import LoopChoice, new_event_loop
from s2connect.service.failures import ExitCode, Failure
from s2connect.service.logs import LogFormat, log_to_stderr
from s2connect.store.home import HOME_VARIABLE, Home, default_home, expanded

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from s2connect.model.common import Role
    from s2connect.service.commands import Command
    from s2connect.service.reach import Reached

_Result = TypeVar("_Result")

INTERRUPTED = Failure("interrupted", "Stopped.", code=ExitCode.INTERRUPTED)
"""Failure of a command that was stopped with Ctrl-C."""

PIPE = 0  # columns of an output that is no terminal: no line is wrapped, and there are no tables
MAX_COLUMNS = 100_000  # columns of what is laid out for an output that is no terminal
MAX_TYPED_BYTES = 4096  # longest line that is read from a person
RoleChoice = Literal["cem", "rm"]  # roles as people type them

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        readable=False,  # typer's words for the directory of another user do not name what helps
        help=f"State directory; default ${HOME_VARIABLE}, or one for this user.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output, for programs.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Details on standard error, for finding faults.")]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        case_sensitive=False,
        envvar="S2CONNECT_LOG_FORMAT",
        help="Log on standard error; auto: with priorities where systemd's journal takes it, otherwise text.",
    ),
]
LogLevelOption = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVELS",
        envvar="S2CONNECT_LOG_LEVEL",
        help="debug, info, warning or error; also of parts: info,transports=debug",
        show_default=False,
    ),
]
NodeOption = Annotated[
    str | None, typer.Option("--node", metavar="ALIAS", help="Which node, by alias or id, where there are several.")
]
RoleOption = Annotated[
    RoleChoice, typer.Option("--role", case_sensitive=False, help="rm: a device; cem: an energy manager.")
]
BrandOption = Annotated[str | None, typer.Option(help="Brand, shown to the user of the other side.")]
KindOption = Annotated[str | None, typer.Option("--type", help="Kind of device, e.g. 'Heat pump'.")]
ModelOption = Annotated[str | None, typer.Option(help="Model.")]
NameOption = Annotated[str | None, typer.Option(help="Name that its user gives it, e.g. 'Battery in the cellar'.")]
OnlyRoleOption = Annotated[
    RoleChoice | None,
    typer.Option("--role", case_sensitive=False, help="Only energy managers (cem) or only devices (rm)."),
]
LoopOption = Annotated[
    LoopChoice,
    typer.Option(
        "--loop",
        case_sensitive=False,
        help="Event loop; auto: uvloop where it is installed. asyncio needs less memory, uvloop less CPU.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ConnectOption = Annotated[
    str | None,
    typer.Option(
        "--connect-to", metavar="ADDRESS", help="Connect to this IP address instead of looking up the name in the URL."
    ),
]


def home_path(home: Path | None) -> Path:
    """Return the state directory."""
    return expanded(home).absolute() if home is not None else default_home()


named_home: ContextVar[Path | None] = ContextVar("named_home", default=None)
"""State directory of the option ``--home`` of the running command."""

_used_home: ContextVar[Path | None] = ContextVar("used_home", default=None)
"""State directory of the running command; None for one that has none."""

_ON_A_HOME = re.compile(
    r"\bs2connect (?:(?:config|node|page) [a-z]+|serve|setup|pair|code|pairings|unpair|status|reload|certificate|doctor"
    r"|backup|move)\b(?![^`,;.\n]* --home)"
)


def with_home(text: str) -> str:
    """Return a text whose advice fits the state directory: that of a bridge, or that which ``--home`` named."""
    text = _for_bridge(text)
    return _ON_A_HOME.sub(lambda found: found[0] + _home_option(), text) if named_home.get() is not None else text


def _for_bridge(text: str) -> str:
    """Return a text with the advice for a bridge, if the command works on the home of one."""
    home = _used_home.get()
    if home is None or "s2connect " not in text or not Home(home).is_of_bridge:
        return text
    from s2connect.service.bridge_advice import in_bridge

    return in_bridge(text)


def _home_option() -> str:
    home = named_home.get()
    return "" if home is None else f" --home {shlex.quote(str(home_path(home)))}"


class PlainText(str):
    """Text to be printed as it is. The terminal wraps it: for rich to do so takes half a millisecond a line."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Options:
    """Options that commands share."""

    home: Path | None
    as_json: bool
    verbose: bool

    @property
    def path(self) -> Path:
        """The state directory."""
        return home_path(self.home)

    def command_line(self, name: str) -> str:
        """Return a command on this state directory as a person types it."""
        return f"s2connect {name}" if self.home is None else f"s2connect {name} --home {shlex.quote(str(self.path))}"

    def ask(self, command: Command[_Result], endpoint: AbstractAsyncContextManager[Reached] | None = None) -> _Result:
        """Have an endpoint execute a command: that of the state directory if no other is given."""
        from s2connect.service.reach import reach

        gc.disable()  # what is read is shown, and then the command ends: nothing to collect, however many pairings

        async def work() -> _Result:
            async with endpoint or reach(self.path) as reached:
                return await reached.ask(command)

        return run_work(work())

    def report(self, value: object, *sentences: str) -> None:
        """Print a result for programs or, as sentences, for people."""
        if self.as_json:
            print_json(value)
            return
        for sentence in sentences:
            say(sentence)

    def show(self, value: object, blocks: Callable[[int], Iterable[RenderableType]]) -> None:
        """Print a result for programs or, as the blocks for a width in columns, for people."""
        if self.as_json:
            print_json(value)
            return
        out = console()
        for block in blocks(columns_of(out)):
            put(out, block)


def examples(*lines: str) -> str:
    """Return the end of a help text: command lines to copy."""
    return "\n".join(["Examples", "", *(f"- `{line}`" for line in lines)])


def register(app: typer.Typer, *commands: Callable[..., object], panel: str | None = None) -> None:
    """Add commands to a group, in a panel of its help. Each was made by :func:`with_options`."""
    for command in commands:
        # Of the function that with_options returns.
        name, epilog = command.command_name, command.epilog  # type: ignore[attr-defined]
        app.command(name, epilog=epilog, rich_help_panel=panel)(command)


def with_options(
    *lines: str,
    name: str | None = None,
    home: bool = True,
    json_option: object = JsonOption,
    level: int = logging.ERROR,
    service: bool = False,
) -> Callable[[Callable[Concatenate[Options, ...], _Result]], Callable[..., _Result]]:
    """Give a command the options that commands share, and their values as first argument; log from ``level`` on.

    ``lines`` are the examples at the end of its help, ``name`` is the word that a person types, if it is not that of
    the function. A command that runs a ``service`` has options for form and level of its log.
    """
    shared: dict[str, tuple[object, object]] = {"home": (HomeOption, None)} if home else {}
    shared |= {"as_json": (json_option, False), "verbose": (VerboseOption, False)}
    if service:
        shared |= {"log_format": (LogFormatOption, "auto"), "log_level": (LogLevelOption, "")}

    def decorate(command: Callable[Concatenate[Options, ...], _Result]) -> Callable[..., _Result]:
        def run(
            *,
            as_json: bool,
            verbose: bool,
            home: Path | None = None,
            log_format: LogFormat = "text",
            log_level: str = "",
            **others: Any,
        ) -> _Result:
            named_home.set(home)
            _used_home.set(home_path(home) if "home" in shared else None)
            log_to_stderr(verbose, otherwise=level, form=log_format, levels=log_level)
            return command(Options(home, as_json, verbose), **others)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in shared.items()
        ]
        run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
        run.command_name = name or command.__name__  # type: ignore[attr-defined]  # register reads both
        run.epilog = examples(*lines) if lines else None  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]  # typer reads it
        return run

    return decorate


def print_json(value: Any) -> None:
    """Print a result for programs."""
    from s2connect.service.objects import to_value

    print(json.dumps(value, default=to_value), flush=True)


def console(*, error: bool = False, **options: Any) -> Console:
    """Return a console for standard output or standard error that interprets no markup."""
    from rich.console import Console

    return Console(stderr=error, markup=False, highlight=False, emoji=False, **options)


def clock(at: datetime) -> str:
    """Return the time of day in the time zone of this machine."""
    return f"{at.astimezone():%H:%M:%S}"


def columns_of(out: Console) -> int:
    """Return the columns of a terminal; :data:`PIPE` for an output that is none."""
    return out.width if out.is_terminal else PIPE


def put(out: Console, block: RenderableType) -> None:
    """Print a block in lines of a terminal's width; those with a URL stay whole, for the terminal to wrap."""
    from rich.text import Text

    if isinstance(block, PlainText):
        print(with_home(block), file=out.file)
    elif isinstance(block, Text):
        if (plain := _for_bridge(block.plain)) != block.plain:
            block = Text(plain, block.style, overflow=block.overflow)
        for found in reversed(list(_ON_A_HOME.finditer(block.plain))):
            block = block[: found.end()].append(_home_option()).append_text(block[found.end() :])
        for line in block.split("\n", allow_blank=True) or [block]:
            out.print(line, soft_wrap=line.overflow == "ignore" or _stays_whole(out, line.plain))
    elif out.is_terminal:
        out.print(block)
    else:
        out.print(block, width=MAX_COLUMNS)


def _stays_whole(out: Console, line: str) -> bool:
    is_copied = "://" in line or "s2connect " in line
    return not out.is_terminal or is_copied or max(map(len, line.split()), default=0) > out.width


def counted(number: int, what: str) -> str:
    """Return a number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def say(text: str, *, error: bool = False) -> None:
    """Print a sentence; a terminal gets it in lines of its width, but what is to be copied is never broken in two."""
    out, text = console(error=error), with_home(text)
    out.print(text, soft_wrap=_stays_whole(out, text))


def tell(text: str) -> None:
    """Print a sentence beside the result, on standard error."""
    say(text, error=True)


def prompt(question: str) -> str:
    """Ask the person at the terminal."""
    print(question, end="", file=sys.stderr, flush=True)
    return _typed_line()


def _typed_line() -> str:
    with interruptible():
        return sys.stdin.readline(MAX_TYPED_BYTES).strip()


class Lines:
    """Lines of standard input, from a person or a program; cancel-safe. Use it with ``async with``.

    ``interactive`` shows the questions; ``ended`` says what the end of the input means.
    """

    def __init__(self, ended: str, *, interactive: bool = True) -> None:
        from s2connect.service.lines import descriptor_of, read_lines

        self.interactive = interactive
        self._ended = ended
        self._lines = read_lines(descriptor_of(sys.__stdin__), MAX_TYPED_BYTES)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lines.aclose()

    async def ask(self, question: str) -> str:
        """Ask a question and return the next line; raise ``Failure`` if there is none."""
        if self.interactive:
            print(question, end="", file=sys.stderr, flush=True)
        line = await anext(self._lines, None)
        if line is None:
            raise Failure("input_ended", f"The input has ended; {self._ended}")
        return line


async def ask_person(question: str) -> str:
    """Ask the person at the terminal while other work goes on; cancel-safe."""
    # A terminal gives whole lines: nothing is read that is not returned.
    async with Lines("nothing was changed.") as lines:
        return await lines.ask(question)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``INTERRUPTED`` for Ctrl-C; versions of typer differ in what they do with it."""
    try:
        yield
    except KeyboardInterrupt:
        raise INTERRUPTED from None


def as_role(choice: RoleChoice | None) -> Role | None:
    """Return a role that was typed as that of the standard."""
    from s2connect.model.common import Role

    return None if choice is None else Role(choice.upper())


def description(
    role: RoleChoice | None, brand: str | None, kind: str | None, model: str | None, name: str | None
) -> dict[str, Any]:
    """Return the description of a node that options give, by the names of its members."""
    return {
        "role": as_role(role),
        "brand": brand,
        "type": kind,
        "model_name": model,
        "user_defined_name": name,
    }


def run_work(work: Coroutine[Any, Any, _Result], *, loop: LoopChoice = "asyncio") -> _Result:
    """Run a coroutine to its end, or until Ctrl-C."""
    with contextlib.closing(work), interruptible(), asyncio.Runner(loop_factory=lambda: new_event_loop(loop)) as runner:
        return runner.run(work)


def confirm(question: str) -> None:
    """Ask a question, and go on only with a yes."""
    if prompt(f"{question} [y/N] ").lower() not in ("y", "yes"):
        raise Failure("aborted", "Nothing was changed.")


def line_from_stdin(what: str) -> str:
    """Read a line of standard input, for what must not be in the list of processes."""
    text = _typed_line()
    if not text:
        raise UsageError(f"Standard input does not hold {what}.")
    return text


def confirm_end_of_pairings(warning: str, question: str, *, yes: bool, as_json: bool) -> None:
    """Go on only with a yes: of the person, or as option."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UsageError(warning, hint="Add --yes if that is what you want.")
    tell(warning)
    confirm(question)
