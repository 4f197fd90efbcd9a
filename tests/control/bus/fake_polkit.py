"""A polkit that gives every request the same answer, or none (Silent), and prints the actions requested."""

import asyncio
import sys

from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message


async def main() -> None:
    """Answer until the bus ends."""
    bus = await MessageBus(bus_address=sys.argv[1]).connect()

    def answer(message: Message) -> Message | bool | None:
        if message.member != "CheckAuthorization":
            return None
        print(message.body[1], message.body[2], flush=True)
        if sys.argv[2] == "Silent":
            return True
        return Message.new_method_return(message, "(bba{ss})", [[sys.argv[2] == "True", False, {}]])

    bus.add_message_handler(answer)
    await bus.request_name("org.freedesktop.PolicyKit1")
    print("ready", flush=True)
    await bus.wait_for_disconnect()


asyncio.run(main())
