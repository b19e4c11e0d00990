"""Session initiation: the request alone, and the whole way to an open WebSocket on new connections."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import s2auth
from benchmarks.harness import Effort, Row, Worker, in_turns, take, workspace

DEVICES = 64
AT_A_TIME = 8


def measure(effort: Effort) -> list[Row]:
    """The rows of this theme."""
    # Imported here: a worker's module, which takes its time.
    from benchmarks.endpoint_worker import HOST, node_id, token

    runs, count = effort.pick(5, 3), effort.pick(400, 100)
    with workspace() as directory, ExitStack() as stack:
        server = stack.enter_context(
            Worker.ours("endpoint_worker", "serve", home=str(directory / "cem"), nodes=1, paired=DEVICES)
        )
        ours = stack.enter_context(
            Worker.ours(
                "endpoint_worker",
                "post",
                url=f"{server.ready['session_url']}v1/initiateSession".replace(HOST, "localhost"),
                ca=server.ready["ca"],
                token=token(0).reveal(),
                node=str(node_id("cem-0")),
            )
        )
        workers = s2auth.server_and_client(stack, directory, clients=1)
        theirs = None
        if workers is not None:
            paired = workers[1].ask(count=1, at_a_time=1, with_token=True)
            theirs = stack.enter_context(
                Worker.ours(
                    "endpoint_worker",
                    "post",
                    url=f"{workers[0].ready['pairing_url']}v1/initiateSession",
                    ca=str(directory / "ca.pem"),
                    token=paired["access_token"],
                    node=s2auth.NODE,
                )
            )
        posting = [
            (lambda worker=worker, n=n: worker.ask(count=count, at_a_time=n)) if worker else None
            for n in (1, AT_A_TIME)
            for worker in (ours, theirs)
        ]
        one, their_one, busy, their_busy = in_turns(runs, *posting)
        ours.__exit__()
        task = {"home": str(directory / "rm"), "server": server.ready, "count": DEVICES}
        initiator = stack.enter_context(Worker.ours("endpoint_worker", "initiate", **task))
        whole = [lambda n=n: initiator.ask(count=max(DEVICES, count // 3), at_a_time=n) for n in (1, AT_A_TIME)]
        whole_one, whole_busy = in_turns(runs, *whole)
    beside = "s2auth, initiateSession alone"
    return [
        Row(
            "initiateSession alone, kept alive, p50",
            "ms",
            take(one, "p50", 1e3) or 0.0,
            take(their_one, "p50", 1e3),
            "s2auth",
        ),
        Row(
            f"initiateSession alone, kept alive, {AT_A_TIME} at a time",
            "1/s",
            take(busy, "rate") or 0.0,
            take(their_busy, "rate"),
            "s2auth",
        ),
        Row(
            "whole session initiation with WSS, new connections, p50",
            "ms",
            take(whole_one, "p50", 1e3) or 0.0,
            take(their_one, "p50", 1e3),
            beside,
        ),
        Row(
            f"whole session initiation with WSS, new connections, {AT_A_TIME} at a time",
            "1/s",
            take(whole_busy, "rate") or 0.0,
            take(their_busy, "rate"),
            beside,
            "≥ 150/s",
        ),
    ]
