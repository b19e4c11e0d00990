"""s2auth's reference server, with clients that may pair at once. Runs in its environment, on the loop it runs on."""

import asyncio
import json
import logging
import os
import sys
import uuid

keyboard, _ = os.pipe()
commands, sys.stdin = sys.stdin, os.fdopen(keyboard)  # the server watches its keyboard
answers, sys.stdout = sys.stdout, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # and logs there

import uvicorn  # noqa: E402
import uvloop  # noqa: E402
from s2auth.reference.server.main import app  # noqa: E402
from s2auth.server.pairing import initiate_pairing  # noqa: E402

task = json.loads(sys.argv[1])


async def main() -> None:
    directory = task["directory"]
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            ssl_certfile=f"{directory}/chain.pem",
            ssl_keyfile=f"{directory}/key.pem",
            log_config=None,
        )
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    logging.getLogger().setLevel(logging.WARNING)  # it starts with everything
    for number in range(task["clients"]):
        client = uuid.uuid5(uuid.NAMESPACE_OID, f"rm-{number}")
        await initiate_pairing(client_node_id=client, pairing_token=task["token"])
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"pairing_url": f"https://localhost:{port}/pairing/"}), file=answers, flush=True)
    await asyncio.to_thread(commands.read)
    server.should_exit = True
    await running


uvloop.run(main())
