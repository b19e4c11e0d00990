"""The commands ``backup``, ``restore`` and ``move``: the state directory in one encrypted file."""

from __future__ import annotations

import asyncio
import getpass
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s2connect.cli.terminal import (
    Options,
    YesOption,
    confirm,
    counted,
    interruptible,
    print_json,
    run_work,
    say,
    tell,
    with_options,
)
from s2connect.errors import HomeInUse, StorageUnavailable, UsageError
from s2connect.service.failures import Failure
from s2connect.store.home import Home

if TYPE_CHECKING:
    from s2connect.endpoint.backup import Backup
    from s2connect.store.backup_file import Passphrase

STOPPING_SECONDS = 30.0  # longest time for the service to stop
MAX_PASSPHRASE_BYTES = 4096  # longest line or file with a passphrase

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File of the backup.")]
StdinOption = Annotated[
    bool, typer.Option("--passphrase-stdin", help="Read the passphrase from standard input, one line.")
]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="PATH", help="Read the passphrase from a file only its owner can read."),
]


@with_options("s2connect backup cellar.s2backup", "s2connect backup /mnt/usb/cellar.s2backup --passphrase-file phrase")
def backup(
    options: Options,
    file: FileArgument,
    passphrase_stdin: StdinOption = False,
    passphrase_file: PassphraseFileOption = None,
    yes: YesOption = False,
) -> None:
    """Back up the state directory, with all keys, pairings and tokens, into one encrypted file. The service goes on."""
    from s2connect.endpoint.backup import back_up
    from s2connect.service.commands import BackupMade, MakeBackup
    from s2connect.service.control import connect

    home = Home.open(options.path)
    _check_target(home, file, yes=yes, as_json=options.as_json)
    passphrase = _new_passphrase(passphrase_file, stdin=passphrase_stdin)

    async def work() -> BackupMade:
        async with connect(home) as control:
            if control is not None:
                made = await control.ask(MakeBackup(passphrase=passphrase))
                await asyncio.to_thread(_take_over, Path(made.file), file)
                return made
        here = await back_up(options.path, passphrase)
        await asyncio.to_thread(_write, file, here.file)
        return BackupMade(file=str(file), made_at=here.made_at, pairings=here.pairings, left_out=list(here.left_out))

    made = run_work(work())
    if options.as_json:
        print_json({"file": str(file), "made_at": made.made_at, "pairings": made.pairings, "left_out": made.left_out})
        return
    say(f"Backed up {options.path} with {counted(made.pairings, 'pairing')} into {file}.")
    _say_left_out(home, made.left_out)
    say("Sessions rotate tokens: make backups often, and never let two homes of one endpoint run at a time.")
    say("To carry on on another machine, s2connect move is better: nothing has to be paired again.")


@with_options("s2connect restore cellar.s2backup", "s2connect restore cellar.s2backup --home cellar --replace")
def restore(
    options: Options,
    file: FileArgument,
    passphrase_stdin: StdinOption = False,
    passphrase_file: PassphraseFileOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where a home is set up already. ITS STATE IS LOST; asks before.")
    ] = False,
    vault: Annotated[
        Literal["auto", "keyring", "files"],
        typer.Option(help="Where secrets are kept; auto: as it was, if this machine can."),
    ] = "auto",
    yes: YesOption = False,
) -> None:
    """Restore a state directory from the file of backup or move. The service must not run."""
    from s2connect.endpoint.backup import read_backup, sentences
    from s2connect.endpoint.backup import restore as restore_home

    path = options.path
    data = read_backup(file)  # before anybody is asked
    exists = _is_set_up(path)
    if exists and not (replace or yes):
        raise UsageError(
            f"{path} is set up already.",
            hint="Nothing was changed. Name another directory with --home, or give --replace: its state is lost then.",
        )
    if exists and not yes:
        _sure(
            f"All keys and pairings in {path} are lost, and those of {file} take their place.", "Replace it?", options
        )
    passphrase = _passphrase(passphrase_file, stdin=passphrase_stdin)
    with interruptible():
        done = restore_home(path, data, passphrase, replace=exists, vault=vault)
    if options.as_json:
        print_json(
            {
                "home": str(path),
                "made_at": done.made_at,
                "moved": done.moved,
                "pairings": done.pairings,
                "vault": done.vault,
                "missing": list(done.missing),
            }
        )
        return
    at = f"{done.made_at.astimezone():%Y-%m-%d %H:%M}"
    say(f"Restored {path} with {counted(done.pairings, 'pairing')}, as of {at}. Its vault is '{done.vault}'.")
    for sentence in sentences(done):
        say(sentence)
    say(f"Next: {_start_command(options)}")


@with_options("s2connect move cellar.s2backup", "s2connect move --undo")
def move(
    options: Options,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File to move the endpoint with.")] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Open the sealed home again, where the file was lost and restored nowhere.")
    ] = False,
    passphrase_stdin: StdinOption = False,
    passphrase_file: PassphraseFileOption = None,
    yes: YesOption = False,
) -> None:
    """Move the endpoint to another machine: write the file, and seal this home, so that two never run.

    A running service is stopped. There: s2connect restore FILE. Nothing has to be paired again.
    """
    if undo:
        if file is not None:
            raise UsageError("--undo takes no FILE.")
        _undo(options, yes=yes)
        return
    if file is None:
        raise UsageError("A FILE is needed.", hint="Example: s2connect move cellar.s2backup")
    from s2connect.endpoint.backup import move as move_home

    home = Home.open(options.path)
    if (moved := home.moved()) is not None:
        raise moved
    target = file.absolute()
    _check_target(home, target, yes=yes, as_json=options.as_json)
    if not yes:
        _sure(f"{options.path} does not start here any more; it goes on where {file} is restored.", "Move it?", options)
    passphrase = _new_passphrase(passphrase_file, stdin=passphrase_stdin)

    async def work() -> Backup:
        await _stopped(home)
        return await move_home(options.path, passphrase, target)

    made = run_work(work())
    if options.as_json:
        print_json({"file": str(file), "made_at": made.made_at, "pairings": made.pairings, "left_out": made.left_out})
        return
    say(f"Moved {options.path} with {counted(made.pairings, 'pairing')} into {file}. It does not start here any more.")
    _say_left_out(home, made.left_out)
    say(f"Next, on the other machine: s2connect restore {shlex.quote(file.name)}  (nothing has to be paired again)")
    say(f"If the file is lost before that: {options.command_line('move --undo')}")


def _undo(options: Options, *, yes: bool) -> None:
    from s2connect.endpoint.backup import undo_move

    if not yes:
        _sure(
            "If the file was restored anywhere, that home and this one are the same endpoint: tokens change with every "
            "session, so one of the two loses its pairings.",
            "Open this home again?",
            options,
        )
    undo_move(options.path)
    options.report({"home": str(options.path)}, f"{options.path} is open again.", f"Next: {_start_command(options)}")


async def _stopped(home: Home) -> None:
    """Stop the service of a home, and wait until it has ended."""
    from s2connect.service.commands import Stop
    from s2connect.service.control import connect

    async with connect(home) as control:
        if control is None:
            return
        tell("Stopping the service …")
        try:
            await control.ask(Stop())
        except Failure as failure:
            if failure.kind != "service_not_running":
                raise
    loop = asyncio.get_running_loop()
    until = loop.time() + STOPPING_SECONDS
    while True:
        try:
            with home.lock(moved=True):
                return
        except HomeInUse:
            if loop.time() > until:
                raise
        await asyncio.sleep(0.1)


def _sure(warning: str, question: str, options: Options) -> None:
    if options.as_json or not sys.stdin.isatty():
        raise UsageError(warning, hint="Add --yes if that is what you want.")
    tell(warning)
    confirm(question)


def _is_set_up(path: Path) -> bool:
    from s2connect.endpoint.config import CONFIG_FILE

    return (path / CONFIG_FILE).exists()


def _check_target(home: Home, file: Path, *, yes: bool, as_json: bool) -> None:
    """Refuse a file that cannot be written, before anybody types a passphrase."""
    target = file.absolute()
    if home.path.absolute() in target.parents:
        raise UsageError("The file of a backup does not belong into the state directory.", hint="Name another place.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no directory {target.parent}.")
    if target.is_dir():
        raise UsageError(f"{file} is a directory.", hint="Name a file in it.")
    if target.exists() and not target.is_file():  # it would be replaced, not written to
        raise UsageError(f"{file} is a device or pipe, and not a file.", hint="Name a file.")
    if target.exists() and not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError(f"{file} exists already.", hint="Name another file, or add --yes to replace it.")
        confirm(f"{file} exists already. Replace it?")


def _write(file: Path, content: bytes) -> None:
    from s2connect.store.files import write_private

    write_private(file.absolute(), content)


def _take_over(made: Path, file: Path) -> None:
    """Move the backup that the service has made to the file that was asked for."""
    try:
        _write(file, made.read_bytes())
        made.unlink()
    except OSError as error:
        raise StorageUnavailable(f"{made} could not be read: {error.strerror}.") from error


def _start_command(options: Options) -> str:
    return "s2connect bridge run FILE" if Home(options.path).is_of_bridge else options.command_line("serve")


def _say_left_out(home: Home, left_out: list[str] | tuple[str, ...]) -> None:
    if home.is_of_bridge:
        say("Not in the file: the file of the bridge (TOML), and the files that it names. Copy them along.")
    for path in left_out[:20]:
        say(f"Not in the file: {path}")


def _new_passphrase(file: Path | None, *, stdin: bool) -> Passphrase:
    """Return a passphrase for a new file; a person types it twice."""
    if file is None and not stdin and sys.stdin.isatty():
        tell("The file holds all keys: choose a passphrase that nobody guesses. Without it the file is of no use.")
    first = _passphrase(file, stdin=stdin)
    if file is None and not stdin and _hidden("Passphrase again: ") != first.reveal():
        raise UsageError("The two passphrases differ.", hint="Nothing was changed.")
    return first


def _passphrase(file: Path | None, *, stdin: bool) -> Passphrase:
    from s2connect.endpoint.backup import passphrase_of
    from s2connect.store.files import read_private

    if file is not None and stdin:
        raise UsageError("--passphrase-stdin and --passphrase-file do not go together.")
    if file is not None:
        content = read_private(file, MAX_PASSPHRASE_BYTES)
        if content is None:
            raise UsageError(f"There is no file {file}.")
        text = content.decode("utf-8", "replace").rstrip("\r\n")
    elif stdin:
        with interruptible():
            text = sys.stdin.readline(MAX_PASSPHRASE_BYTES).rstrip("\r\n")
    elif sys.stdin.isatty():
        text = _hidden("Passphrase: ")
    else:
        raise UsageError(
            "A passphrase is needed, and nobody can be asked.",
            hint="Give --passphrase-stdin or --passphrase-file PATH.",
        )
    return passphrase_of(text)


def _hidden(question: str) -> str:
    """Ask the person at the terminal, without showing what is typed."""
    with interruptible():
        return getpass.getpass(question, stream=sys.stderr)
