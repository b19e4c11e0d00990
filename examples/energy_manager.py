"""An energy manager: shows a code, selects control by fill rate for every device that offers it, prints what it hears.

s2connect init --home ems --role cem --name "House"
python examples/energy_manager.py ems
"""

import asyncio
import sys

from s2connect import Endpoint, Session, errors

SELECT = {"message_type": "SelectControlType", "control_type": "FILL_RATE_BASED_CONTROL"}


async def converse(session: Session) -> None:
    name = session.peer.title
    print(name, "is here")
    try:
        async for message in session:
            print(name, message.type)
            offered = message.body.get("available_control_types", ())
            if message.type == "ResourceManagerDetails" and SELECT["control_type"] in offered:
                await session.send(SELECT)
    except errors.SessionError as error:  # one device's trouble is not that of the others
        print(name, error)
    print(name, "has left:", session.end_reason)


async def main(home: str) -> None:
    async with Endpoint.open(home) as endpoint, asyncio.TaskGroup() as sessions:
        cem = endpoint.node()
        print("Pair at", endpoint.pairing_url, "with the code", cem.issue_pairing_code())
        async for session in cem.sessions():
            sessions.create_task(converse(session), name=f"session-{session.peer.id}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
