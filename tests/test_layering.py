"""Imports point one way only (docs/architecture.md), and the cores do no I/O."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import s2connect

ROOT = Path(s2connect.__file__).resolve().parent
REPOSITORY = Path(__file__).resolve().parents[1]

LAYERS = {
    "_lazy": 1,
    "errors": 1,
    "model": 1,
    "messages": 1,
    "certs": 2,
    "store": 2,
    "supervisor": 2,
    "collector": 2,
    "https": 3,
    "transports": 3,
    "pairing": 4,
    "session": 4,
    "discovery": 4,
    "endpoint": 5,
    "events": 5,
    "shared": 5,
    "__init__": 5,
    "bridge": 6,
    "contrib": 6,
    "simulate": 6,
    "web": 7,
    "service": 8,
    "demo": 9,
    "diagnostics": 9,
    "cli": 10,
    "__main__": 10,
}
"""Each part of the package and its layer. A new part has to be put in here, and into docs/architecture.md."""

STRANGERS = [{"certs", "store"}, {"https", "transports"}, {"pairing", "session"}]
"""Parts of one layer that know nothing of each other."""

CORES = [
    "pairing/server_core.py",
    "pairing/attempt.py",
    "pairing/client_core.py",
    "pairing/code.py",
    "pairing/challenge.py",
    "pairing/rate_limiter.py",
    "pairing/refusals.py",
    "pairing/interface.py",
    "pairing/lan_core.py",
    "pairing/long_poll_core.py",
    "discovery/txt.py",
    "discovery/endpoint_table.py",
    "session/server_core.py",
    "session/client_core.py",
    "session/ownership.py",
    "session/budget.py",
    "session/inbox.py",
    "session/answers.py",
    "transports/backoff.py",
    "session/acknowledgements.py",
    "session/latencies.py",
    "web/meter.py",
    "web/ring.py",
    "web/power.py",
    "web/advice.py",
    "web/codes.py",
    "web/warnings.py",
    "web/watches.py",
    "store/backup_file.py",
    "model/alphabet.py",
    "model/log_limiter.py",
    "transports/frame_budget.py",
    "https/client_hello.py",
    "https/rate.py",
    "https/admission.py",
    "https/overload.py",
    "https/proxy_protocol.py",
    "messages/handshake.py",
    "bridge/relay.py",
    "bridge/link_state.py",
    "bridge/counters.py",
    "simulate/cem.py",
    "web/access.py",
    "simulate/picture.py",
    *(
        f"transports/mqtt/{name}.py"
        for name in (
            "topics",
            "sealing",
            "frames",
            "parameters",
            "channel",
            "admission",
            "publish",
            "receiver",
            "rivals",
            "nodes",
            "device_list",
        )
    ),
    "messages/state.py",
    "messages/conversation.py",
    "messages/versions.py",
]
AROUND_CORES = {"transports/websocket_connection.py"}
"""Files whose docstring speaks of a core that is not in them."""

OUTSIDE = {
    "asyncio",
    "ssl",
    "socket",
    "time",
    "random",
    "secrets",
    "os",
    "threading",
    "aiohttp",
    "websockets",
    "sqlite3",
}
"""What brings time, chance or the outside world with it."""


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


class _Imports(ast.NodeVisitor):
    """Imports of a file, also those inside functions.

    Args:
        file: The file.
        typing: Include what is imported for type checkers only.
    """

    def __init__(self, file: Path, *, typing: bool) -> None:
        self.file = file
        self.typing = typing
        self.found: list[Import] = []

    def _add(self, node: ast.stmt, module: str) -> None:
        self.found.append(Import(self.file.relative_to(ROOT).as_posix(), node.lineno, module))

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test) and not self.typing:
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self.file}:{node.lineno}: absolute imports only"
        assert node.module is not None
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            place = ROOT.parent / Path(*inner.split("."))
            self._add(node, inner if place.is_dir() or place.with_suffix(".py").is_file() else node.module)


def _files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@cache
def _imports(file: Path, *, typing: bool = False) -> list[Import]:
    visitor = _Imports(file, typing=typing)
    visitor.visit(ast.parse(file.read_text("utf-8")))
    return visitor.found


def _part_of_file(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def _part_of_module(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _inner() -> Iterator[tuple[str, str, Import]]:
    for file in _files():
        for found in _imports(file):
            if found.module.partition(".")[0] == "s2connect":
                yield _part_of_file(found.file), _part_of_module(found.module), found


def test_every_part_has_a_layer() -> None:
    assert {_part_of_file(f.relative_to(ROOT).as_posix()) for f in _files()} <= set(LAYERS)


def test_imports_point_to_the_same_or_a_lower_layer() -> None:
    wrong = [str(found) for importer, imported, found in _inner() if LAYERS[imported] > LAYERS[importer]]
    assert not wrong


def test_no_two_files_import_each_other() -> None:
    """Neither directly nor through others, also within a part, and also under ``TYPE_CHECKING``."""
    modules = {
        ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in _files()
    }
    graph = {
        module: {found.module for found in _imports(file, typing=True)} & modules.keys() - {module}
        for module, file in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(
            f"These files import each other: {' <- '.join(error.args[1])}. Move what both need into a third file that "
            "imports neither, or pass the object in as an argument.",
            pytrace=False,
        )


def test_parts_that_are_strangers_do_not_import_each_other() -> None:
    wrong = [
        str(found)
        for importer, imported, found in _inner()
        if importer != imported and any({importer, imported} == pair for pair in STRANGERS)
    ]
    assert not wrong


def test_the_lowest_layer_is_ordered_in_itself() -> None:
    order = ["errors", "model", "messages"]
    wrong = [
        str(found)
        for importer, imported, found in _inner()
        if importer in order and imported in order and order.index(imported) > order.index(importer)
    ]
    assert not wrong


def test_nothing_below_the_public_interface_goes_through_it() -> None:
    wrong = [str(found) for importer, imported, found in _inner() if imported == "__init__" and LAYERS[importer] < 6]
    assert not wrong


def test_the_page_on_architecture_names_the_same_parts_in_the_same_layers() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \|([^|]*)\|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == sorted(set(LAYERS.values()))
    for number, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert LAYERS.get(name) == int(number), name


def test_the_page_on_architecture_has_every_core_and_every_file_of_the_endpoint() -> None:
    """Those of MQTT stand there as what the channel imports."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    lacking = [core for core in CORES if core not in text and not core.startswith("transports/mqtt/")]
    endpoint = [file.name for file in (ROOT / "endpoint").glob("*.py") if file.name != "__init__.py"]
    assert not lacking + [name for name in endpoint if f"`{name}`" not in text]


def test_only_the_command_knows_terminals() -> None:
    of_terminals = {"typer", "rich"}
    wrong = [
        str(found)
        for file in _files()
        for found in _imports(file)
        if found.module.partition(".")[0] in of_terminals and not found.file.startswith("cli/")
    ]
    assert not wrong


@pytest.mark.parametrize("core", CORES)
def test_cores_bring_no_time_no_chance_and_no_io(core: str) -> None:
    allowed = {"secrets"} if core == "pairing/code.py" else set()  # PairingToken.generate
    used = {found.module.partition(".")[0] for found in _imports(ROOT / core)}
    assert not used & (OUTSIDE - allowed)


def test_only_the_generation_of_tokens_uses_random_numbers_in_the_module_of_codes() -> None:
    tree = ast.parse((ROOT / "pairing" / "code.py").read_text("utf-8"))
    users = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(node, ast.Name) and node.id == "secrets" for node in ast.walk(function))
    ]
    assert users == ["generate"]


def test_the_table_of_offers_has_its_time_and_chance_from_outside() -> None:
    """It shares its module with the futures around it."""
    tree = ast.parse((ROOT / "transports" / "offers.py").read_text("utf-8"))
    (table,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "OfferTable")
    outside = {found.module.partition(".")[0] for found in _imports(ROOT / "transports" / "offers.py")} & OUTSIDE
    assert not {node.id for node in ast.walk(table) if isinstance(node, ast.Name)} & outside


def test_every_core_is_listed() -> None:
    """Each file that is called a core, or says of itself that it has no I/O."""
    claim = re.compile(r"sans-I/O|\b(no|without) I/O", re.IGNORECASE)
    found = {
        file.relative_to(ROOT).as_posix()
        for file in _files()
        if file.stem.endswith("core") or (file.name != "__init__.py" and claim.search(_own_docstring(file)))
    }
    assert found <= set(CORES) | AROUND_CORES


def _own_docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""


def test_every_error_has_a_kind_of_its_own() -> None:
    from s2connect import errors

    assert errors.NotReachable.kind == "not_reachable"
    assert errors.StorageError.kind == "storage"
    kinds = [getattr(errors, name).kind for name in errors.__all__]
    assert len(set(kinds)) == len(kinds), "programs tell errors by their kind"


def test_every_erratum_that_code_cites_is_on_the_page() -> None:
    page = REPOSITORY / "docs" / "errata.md"
    if not page.is_file():
        pytest.skip("the page is not written yet")
    listed = re.findall(r"^\| (S2C-\d+) \|", page.read_text("utf-8"), re.MULTILINE)
    assert listed == sorted(set(listed)), "numbers are unique and in order"
    for file in _files():
        cited = set(re.findall(r"S2C-\d+", file.read_text("utf-8")))
        assert cited <= set(listed), f"{file.relative_to(ROOT)} cites {sorted(cited - set(listed))}"
