"""Messages over WSS: to the ReceptionStatus beside s2-python, and echo beside the bare libraries."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Effort, Row, Worker, in_turns, peer_python, take, workspace
from benchmarks.samples import SAMPLES


def size_of(sample: str) -> str:
    length = len(json.dumps({**SAMPLES[sample], "message_id": "0" * 36}, separators=(",", ":")))
    return f"{length} B" if length < 1000 else f"{length / 1000:.1f} KB"


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
                label = f"{size_of(sample)}, {'deflate' if deflate else 'plain'}"
                for key, name, budget in (("p50", "p50", 130 if sample == "small" else None), ("p99", "p99", None)):
                    rows.append(
                        Row(
                            f"message → ReceptionStatus {name}, {label}",
                            "µs",
                            take(session, key, 1e6) or 0.0,
                            take(s2python, key, 1e6),
                            "s2-python",
                            f"≤ {budget} µs" if budget else "",
                        )
                    )
                rows.append(
                    Row(
                        f"message → ReceptionStatus, {label}",
                        "1/s",
                        take(session, "rate") or 0.0,
                        take(s2python, "rate"),
                        "s2-python",
                    )
                )
                for beside, result in (("aiohttp", aiohttp), ("websockets", websockets)):
                    rows.append(
                        Row(
                            f"echo p50, {label}",
                            "µs",
                            take(connection, "p50", 1e6) or 0.0,
                            take(result, "p50", 1e6),
                            beside,
                            "≤ 1.5 of peer",
                        )
                    )
    return rows
