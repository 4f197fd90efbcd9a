"""A bus client as a separate program, so that it can run as any user. It reads steps and writes answers as JSON.

A step is a call with ``member``, ``path``, ``interface``, ``kinds`` (signatures), ``body`` and ``files`` (paths to
open); or ``wait`` with the name of a signal, and optionally its ``path``; or ``signal`` with the name of one to send,
and ``files``. A call with ``unanswered`` is made that many times, without waiting for all replies. An answer is the
reply's body, ``{"error": name, "text": ..}``, or the signal's body.
"""

import asyncio
import json
import os
import sys
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

NAME = "org.handshaked.Handshaked1"


async def main() -> None:
    """Change to the user, and perform the steps."""
    uid = int(sys.argv[2])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    bus = await MessageBus(bus_address=sys.argv[1], negotiate_unix_fd=True).connect()
    signals: asyncio.Queue[Message] = asyncio.Queue()

    def note(message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL and message.path.startswith("/org/handshaked"):
            signals.put_nowait(message)
        return False

    bus.add_message_handler(note)
    answers = []
    for step in json.load(sys.stdin):
        if "wait" in step:
            message = await asyncio.wait_for(signals.get(), 20)
            while message.member != step["wait"] or step.get("path") not in (None, message.path):
                message = await asyncio.wait_for(signals.get(), 20)
            answers.append(plain(message.body))
        elif "signal" in step:
            await bus.send(signal(step))
            answers.append(None)
        elif "unanswered" in step:
            left = [asyncio.create_task(call(bus, step)) for _ in range(step["unanswered"])]
            first, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            answers.append([await one for one in first])
        else:
            answers.append(await call(bus, step))
    print(json.dumps(answers))


async def call(bus: MessageBus, step: dict[str, Any]) -> Any:
    """Make one call and return its answer."""
    files = [os.open(path, os.O_RDONLY) for path in step.get("files", [])]
    body = [
        variants(value) if kind == "a{sv}" else value
        for kind, value in zip(step.get("kinds", []), step.get("body", []), strict=True)
    ]
    reply = await bus.call(
        Message(
            destination=step.get("destination", NAME),
            path=step.get("path", "/org/handshaked/Handshaked1"),
            interface=step.get("interface", "org.handshaked.Handshaked1.Manager"),
            member=step["member"],
            signature="".join(step.get("kinds", [])),
            body=body,
            unix_fds=files,
        )
    )
    assert reply is not None
    if reply.message_type is MessageType.ERROR:
        return {"error": reply.error_name, "text": reply.body[0] if reply.body else ""}
    return plain(reply.body)


def signal(step: dict[str, Any]) -> Message:
    """Return a signal addressed to the daemon."""
    return Message(
        destination=NAME,
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member=step["signal"],
        message_type=MessageType.SIGNAL,
        signature=step.get("signature", ""),
        body=step.get("body", []),
        unix_fds=[os.open(path, os.O_RDONLY) for path in step.get("files", [])],
    )


def variants(values: dict[str, Any]) -> dict[str, Variant]:
    """Return `values` as variants."""
    return {name: Variant(signature(value), value) for name, value in values.items()}


def signature(value: Any) -> str:
    """Return the signature of `value`."""
    if isinstance(value, list):
        return "aa{ss}" if value and isinstance(value[0], dict) else "as"
    return {bool: "b", int: "x", str: "s"}[type(value)]


def plain(value: Any) -> Any:
    """Return `value` without variants."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


asyncio.run(main())
