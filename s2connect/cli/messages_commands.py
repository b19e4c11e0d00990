"""The commands for S2 messages in files, as ``app`` registers them."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from s2connect.cli.terminal import JsonOption, RoleChoice, VerboseOption, interruptible, log_to_stderr, print_json
from s2connect.service.failures import ExitCode

VersionOption = Annotated[
    str | None,
    typer.Option("--version", metavar="VERSION", help="S2 JSON version: v1.0.0, or 0.0.2-beta of plain S2."),
]


def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Messages (one, an array, one a line) or a log, also of other software; '-' is standard input.",
        ),
    ],
    version: VersionOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> ExitCode:
    """Check S2 messages in files: their schema, and what they say. Needs no set-up.

    Each message is judged on its own; for a whole conversation there is s2connect replay.
    Exit code 0 if all are valid (warnings are allowed), 1 if one is not, 2 if a file cannot be read or has no message.
    """
    from s2connect.cli.show import console, say
    from s2connect.diagnostics.validate import judge_files, report, show

    log_to_stderr(verbose, otherwise=logging.ERROR)
    with interruptible():
        judged, failures = judge_files(files, version)
    if as_json:
        print_json(report(judged, failures))
    else:
        if judged:
            show(judged, console(), several=len(files) > 1)
        for failure in failures.values():
            say(f"{failure.what} {failure.hint}".rstrip(), error=True)
    if failures:
        return ExitCode.USAGE
    return ExitCode.OK if all(one.ok for one in judged) else ExitCode.FAILED


def replay(
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="What serve --record or other software wrote; '-' is standard input.")
    ],
    role: Annotated[
        RoleChoice | None,
        typer.Option("--role", case_sensitive=False, help="Who wrote the log, if it does not say: cem or rm."),
    ] = None,
    version: VersionOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> ExitCode:
    """Check a recorded conversation: every message after what was said before it, and the answers. Needs no set-up.

    Exit code 0 if nothing is wrong (warnings, late answers and refusals by the other side are allowed), otherwise 1;
    2 if the log cannot be read, or there is no conversation in it.
    """
    from s2connect.cli.show import console
    from s2connect.diagnostics.replay import passes, replay_file, report, show
    from s2connect.model.common import Role

    log_to_stderr(verbose, otherwise=logging.ERROR)
    with interruptible():
        remarks, summary = replay_file(log, version, Role(role.upper()) if role is not None else None)
    if as_json:
        print_json(report(remarks, summary))
    else:
        show(remarks, summary, console())
    return ExitCode.OK if passes(remarks) else ExitCode.FAILED
