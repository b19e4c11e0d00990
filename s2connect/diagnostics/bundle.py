"""``doctor --bundle``: one archive that may be mailed to those who help, without keys, tokens, codes and passwords."""

from __future__ import annotations

import asyncio
import json
import platform
import re
import ssl
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from s2connect import read_config
from s2connect.diagnostics.findings import Finding
from s2connect.errors import S2ConnectError, UsageError
from s2connect.service.commands import ShowBridge, ShowLog, Status
from s2connect.service.control import Control, connect
from s2connect.service.objects import to_value
from s2connect.store.files import write_private
from s2connect.store.home import Home

ASK_TIMEOUT: Final = 10.0
"""Seconds for the running service to answer each question."""

REDACTED: Final = "(removed)"
_SECRET_NAMES = re.compile(r"password|passphrase|secret|token|private_key|^code$|_code$", re.IGNORECASE)
_SECRET_FILES = re.compile(r"_file$|^private_key$")
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)

CONTENTS: Final = {
    "README.txt": "what is in it",
    "findings.json": "what doctor has found",
    "versions.json": "versions of s2connect, Python, OpenSSL, packages and the system",
    "settings.json": "settings of the state directory, passwords in URLs removed",
    "status.json": "nodes, pairings, sessions and certificates: with ids, addresses and names of people's devices",
    "bridge.json": "status of the bridge, with names of routes and devices",
    "log.txt": "the latest lines of the log of the running service: with ids, addresses and names of people's devices",
}


def redacted(value: Any, name: str = "") -> Any:
    """Return a value for ``json.dumps`` without what may be secret, by names of members and forms of texts."""
    if isinstance(value, dict):
        return {key: redacted(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each, name) for each in value]
    if isinstance(value, str):
        hidden = _SECRET_NAMES.search(name) and not _SECRET_FILES.search(name)
        return REDACTED if hidden else _cleaned(value)
    return value


def _cleaned(text: str) -> str:
    return _USER_OF_URL.sub(REDACTED, _PEM.sub(REDACTED, text))


async def write_bundle(file: Path, home: Path, findings: Sequence[Finding]) -> dict[str, str]:
    """Write the archive, a file that nobody else may read; :func:`check_new` comes before.

    Returns:
        The names of its parts, and what is in each.

    Raises:
        StorageError: It cannot be written.
    """
    parts = {
        "findings.json": _json([vars_of(finding) for finding in findings]),
        "versions.json": _json(versions()),
        **await _of_home(home),
    }
    told = {name: what for name, what in CONTENTS.items() if name in parts or name == "README.txt"}
    lines = [f"Made by s2connect doctor --bundle, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.", ""]
    lines += [f"{name}: {what}" for name, what in told.items()]
    lines += ["", "Keys, tokens, pairing codes and passwords are not in it."]
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"README.txt": "\n".join(lines) + "\n", **parts}.items():
            archive.writestr(name, text)
    await asyncio.to_thread(write_private, file, packed.getvalue())
    return told


def check_new(file: Path) -> None:
    """Raise ``UsageError`` if a file exists, or its directory does not."""
    if file.exists():
        raise UsageError(f"{file} exists already.", hint="Name a file that does not.")
    if not file.parent.is_dir():
        raise UsageError(f"There is no directory {file.parent}.")


def vars_of(finding: Finding) -> dict[str, str]:
    """Return a finding for programs."""
    names = ("name", "layer", "verdict", "peer", "cause", "cure")
    return {name: str(getattr(finding, name) or "") for name in names}


def versions() -> dict[str, Any]:
    """Return the versions of what runs here."""
    try:
        needed = [re.split(r"[^A-Za-z0-9_.-]", each)[0] for each in distribution("s2connect").requires or ()]
    except PackageNotFoundError:
        needed = []
    packages = {}
    for name in sorted({"s2connect", *needed}):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "packages": packages,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": platform.platform(),
        "machine": platform.machine(),
    }


async def _of_home(path: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    try:
        home = await asyncio.to_thread(Home.open, path)
        config = await asyncio.to_thread(read_config, home)
        parts["settings.json"] = _json(json.loads(config.to_json()))
        async with connect(home) as control:
            if control is not None:
                parts |= await _of_service(control)
    except S2ConnectError:
        pass  # the findings say what is wrong with it
    return parts


async def _of_service(control: Control) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, command in (("status.json", Status()), ("bridge.json", ShowBridge()), ("log.txt", ShowLog())):
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                found: Any = await control.ask(command)
        except (S2ConnectError, TimeoutError):
            continue  # an endpoint has no bridge; an older service has no log
        log = isinstance(command, ShowLog)
        parts[name] = _cleaned("\n".join(found.lines) + "\n") if log else _json(json.loads(_dumped(found)))
    return parts


def _dumped(value: object) -> str:
    return json.dumps(value, default=to_value)


def _json(value: Any) -> str:
    return json.dumps(redacted(value), indent=2, ensure_ascii=False) + "\n"
