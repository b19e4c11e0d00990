"""Session initiation: the request alone, and the whole way to an open WebSocket on new connections."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import s2auth
from benchmarks.harness import Effort, Row, Worker, compare, in_turns, workspace

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
        asks = [lambda n=n: initiator.ask(count=max(DEVICES, count // 3), at_a_time=n) for n in (1, AT_A_TIME)]
        whole_one, whole_busy = in_turns(runs, *asks)
    beside = "s2auth, initiateSession alone"
    alone, whole = "initiateSession alone, kept alive", "whole session initiation with WSS, new connections"
    many = f"{AT_A_TIME} at a time"
    return [
        compare(f"{alone}, p50", "ms", "p50", one, their_one, "s2auth"),
        compare(f"{alone}, {many}", "1/s", "rate", busy, their_busy, "s2auth"),
        compare(f"{whole}, p50", "ms", "p50", whole_one, their_one, beside),
        compare(f"{whole}, {many}", "1/s", "rate", whole_busy, their_busy, beside, "≥ 150/s"),
    ]
