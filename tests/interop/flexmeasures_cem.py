"""Runs in the environment of FlexMeasures' client: its energy manager behind a WebSocket, as its own server has it.

Instead of asking FlexMeasures for a schedule it sends one instruction for each description. Prints events as JSON.
"""

import asyncio
import datetime
import json
import sys
import uuid

from aiohttp import web
from flexmeasures_client.s2.cem import CEM
from flexmeasures_client.s2.control_types.FRBC import FRBC
from s2python.common import ControlType
from s2python.frbc import FRBCInstruction


def report(event, **facts):
    print(json.dumps({"event": event} | facts), flush=True)


class Control(FRBC):
    """Part that a user of the client writes: how to get a schedule, and where measurements go."""

    async def trigger_schedule(self, system_description_id):
        description = self._system_description_history[system_description_id]
        report("description")
        (actuator,) = description.actuators
        await self._sending_queue.put(
            FRBCInstruction(
                message_id=uuid.uuid4(),
                id=uuid.uuid4(),
                actuator_id=actuator.id,
                operation_mode=actuator.operation_modes[1].id,
                operation_mode_factor=0.5,
                execution_time=datetime.datetime.now(datetime.UTC),
                abnormal_condition=False,
            )
        )

    async def send_storage_status(self, status):
        report("storage", level=status.present_fill_level)

    async def send_actuator_status(self, status):
        report("actuator", factor=status.operation_mode_factor)


async def serve(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    manager = CEM(fm_client=None, default_control_type=ControlType.FILL_RATE_BASED_CONTROL)
    manager.register_control_type(Control())

    async def send():
        while True:
            await socket.send_json(await manager.get_message())

    sending = asyncio.create_task(send())
    async for message in socket:
        await manager.handle_message(json.loads(message.data))
    sending.cancel()
    report("stopped")
    return socket


async def main():
    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    report("listening", port=runner.addresses[0][1])
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
