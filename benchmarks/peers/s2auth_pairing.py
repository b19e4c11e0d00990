"""s2auth's PairingClient. Runs in its environment."""

import asyncio
import json
import sys
import time
import uuid

from s2auth.client import ClientSettings, PairingClient

task = json.loads(sys.argv[1])


def client_of(number: int) -> PairingClient:
    return PairingClient(
        ClientSettings(
            server_url=f"{task['server']['pairing_url']}v1",
            pairing_token=task["token"],
            client_s2_node_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"rm-{number}")),
            client_deployment="LAN",
            ssl_certfile=f"{task['directory']}/ca.pem",
            supported_s2_versions=["v1.0.0"],
            storage_db_url=f"sqlite:///{task['directory']}/s2auth.db",
        )
    )


async def main() -> None:
    clients = [client_of(number) for number in range(task["clients"])]
    print("{}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        spans: list[float] = []
        todo = [clients[n % len(clients)] for n in range(question["count"])]

        async def run(todo: list[PairingClient], spans: list[float]) -> None:
            while todo:
                client, start = todo.pop(), time.perf_counter()
                result = await client.pair()
                assert result.success
                spans.append(time.perf_counter() - start)

        began = time.perf_counter()
        await asyncio.gather(*(run(todo, spans) for _ in range(question["at_a_time"])))
        whole = time.perf_counter() - began
        answer = {"p50": sorted(spans)[len(spans) // 2], "rate": len(spans) / whole}
        if question.get("with_token"):
            stored = clients[0].storage.load_connection_details(clients[0].settings.client_s2_node_id)
            answer["access_token"] = stored["access_token"]
        print(json.dumps(answer), flush=True)


asyncio.run(main())
