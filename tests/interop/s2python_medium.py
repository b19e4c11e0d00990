"""Runs the application of s2python_app.py over S2 Connect. One JSON object on standard input says how:

``config``: the endpoint's settings; ``kind``: FRBC or PEBC; ``url`` and ``code``: where to pair, as initiator; without
them a code is issued and printed. What happens is printed as JSON lines, until the process is killed.
"""

import asyncio
import json
import sys

import s2python_app

from s2connect import Endpoint, EndpointConfig, Role
from s2connect.contrib.s2python import S2ConnectMedium


def report(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


async def main(task):
    async with Endpoint.open(config=EndpointConfig.model_validate(task["config"])) as endpoint:
        node = endpoint.node()
        if "url" in task:
            await node.pair(task["url"], task["code"])
        else:
            report("code", url=str(endpoint.pairing_url), code=str(node.issue_pairing_code()))
        run = s2python_app.run_rm if node.role is Role.RM else s2python_app.run_cem
        async for connection, _ in node.connections():
            report("connected", version=connection.info.s2_version)
            async with S2ConnectMedium(connection, role=node.role) as medium:
                await run(medium, task["kind"], report, task.get("stop_after", 1))
            report("disconnected")


asyncio.run(main(json.loads(sys.stdin.readline())))
