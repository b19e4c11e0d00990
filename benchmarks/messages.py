"""Messages over WSS: to the ReceptionStatus beside s2-python, and echo beside the bare libraries."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Effort, Row, Worker, compare, in_turns, peer_python, workspace
from benchmarks.samples import SAMPLES, size_of


def _pair(stack: ExitStack, what: str, directory: Path, *, deflate: bool) -> Worker | None:
    """A server and its client; returns the client."""
    task = {"what": what, "directory": str(directory), "deflate": deflate}
    if what != "s2-python":
        server = stack.enter_context(Worker.ours("messages_worker", "server", **task))
        return stack.enter_context(Worker.ours("messages_worker", "client", server=server.ready, **task))
    python = peer_python("s2python")
    if python is None:
        return None
    script, environment = "s2python_messages.py", {"SSL_CERT_FILE": str(directory / "ca.pem")}
    server = stack.enter_context(Worker.peer(python, script, environment, kind="server", **task))
    return stack.enter_context(Worker.peer(python, script, environment, kind="client", server=server.ready, **task))


def measure(effort: Effort) -> list[Row]:
    """The rows of this theme."""
    rows = []
    runs, count = effort.pick(5, 3), effort.pick(1000, 300)
    for deflate in (True, False):
        with workspace() as directory, ExitStack() as stack:
            whats = ("session", "s2-python", "connection", "aiohttp", "websockets")
            clients = {what: _pair(stack, what, directory, deflate=deflate) for what in whats}
            for sample in SAMPLES:
                measures = [
                    (lambda client=client, sample=sample: client.ask(sample=sample, count=count)) if client else None
                    for client in clients.values()
                ]
                for once in measures:
                    if once:
                        once()  # warm up
                session, s2python, connection, aiohttp, websockets = in_turns(runs, *measures)
                label = f"{size_of(SAMPLES[sample])}, {'deflate' if deflate else 'plain'}"
                status, budget = "message → ReceptionStatus", "≤ 130 µs" if sample == "small" else ""
                rows += [
                    compare(f"{status} p50, {label}", "µs", "p50", session, s2python, "s2-python", budget),
                    compare(f"{status} p99, {label}", "µs", "p99", session, s2python, "s2-python"),
                    compare(f"{status}, {label}", "1/s", "rate", session, s2python, "s2-python"),
                ]
                for beside, result in (("aiohttp", aiohttp), ("websockets", websockets)):
                    rows.append(compare(f"echo p50, {label}", "µs", "p50", connection, result, beside, "≤ 1.5 of peer"))
    return rows
