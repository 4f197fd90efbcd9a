"""The kernel's door: consumers in the kernel ask for handshakes, and each accepted request is answered exactly once.

One thread, one event loop. ACCEPT is sent whenever READY was heard, until the kernel has nothing more to give; only one
ACCEPT is under way at a time, and other handshakes go on between two of them. All workers do so at once, and whoever is
first gets a request. The family may come later, or go and come back: its controller tells. What gets lost
on the way (ENOBUFS, an answer that never comes) costs one more ACCEPT, since asking too often does no harm.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from handshaked.driver import Attempt
from handshaked.errors import FramingError, Status, kernel_status, status_text
from handshaked.model import KERNEL, Outcome, Request, Role
from handshaked.upcall.netlink import (
    MAX_MESSAGE,
    Accepted,
    Acknowledgement,
    Family,
    FamilyChange,
    FromKernel,
    Ready,
    Unintelligible,
    pull_from_kernel,
    push_accept,
    push_done,
    push_get_family,
)

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.02


class Link(Protocol):
    """The way to the family: a socket for commands and one for events, both non-blocking."""

    commands: socket.socket
    events: socket.socket

    def join(self, group: int) -> None:
        """Have the events of a multicast group come in."""
        ...

    def close(self) -> None:
        """Close both sockets."""
        ...


OpenPath = Callable[[Request, socket.socket, Callable[[Outcome], None]], Attempt]
"""Begins a request's handshake on its socket; the outcome is reported by a call, which may come at once."""


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """Bounds; times are in seconds.

    A consumer's own timeout counts less a `margin`, so that it gets an answer while it waits. Those that name none wait
    10 s as client and 5 s as server.
    """

    handshakes: int = 1024
    client_timeout: float = 8.0
    server_timeout: float = 4.5
    margin: float = 0.5
    shortest_timeout: float = 0.5
    longest_timeout: float = 60.0
    answer: float = 5.0
    retry: float = 10.0


class _Answer:
    """The one DONE of a request, and the descriptor that is closed behind it. Callable with the outcome."""

    def __init__(self, descriptor: int, send: Callable[["_Answer", Outcome], None]) -> None:
        self.descriptor = descriptor
        self.attempt: Attempt | None = None
        self.sock: socket.socket | None = None
        self._send: Callable[[_Answer, Outcome], None] | None = send

    def __call__(self, outcome: Outcome) -> None:
        """Report `outcome`; only the first one counts."""
        send, self._send = self._send, None
        if send is not None:
            send(self, outcome)

    def close(self) -> None:
        """Let go of the descriptor."""
        try:
            if self.sock is not None:
                self.sock.close()
            else:
                os.close(self.descriptor)
        except OSError as error:
            log.debug("descriptor %d: %s", self.descriptor, error.strerror)


class KernelDoor:
    """Takes requests from the family behind `open_link`; `paths` has what runs them, by the socket's protocol."""

    def __init__(self, open_link: Callable[[], Link], paths: Mapping[int, OpenPath], limits: KernelLimits) -> None:
        self._open_link = open_link
        self._paths = paths
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._family: Family | None = None
        self._sequence = 0
        self._waiting: dict[int, Callable[[FromKernel], None]] = {}
        self._accepting = False
        self._more = False
        self._takes_tags = False
        self._stopped = False
        self._watch: asyncio.TimerHandle | None = None
        self._open: set[_Answer] = set()
        self._unsent: list[tuple[_Answer, Outcome]] = []
        self._counts = {"accepted": 0, "answered": 0, "answers_refused": 0}
        self._state = "not connected"
        self._connect()

    @property
    def status(self) -> dict[str, Any]:
        """How it does, for people."""
        return {"state": self._state, "in_flight": len(self._open), **self._counts}

    def stop_accepting(self) -> None:
        """Take no new requests: they stay for another worker, or for the next daemon."""
        self._stopped = True
        if self._link is not None:
            self._loop.remove_reader(self._link.events)

    def close(self) -> None:
        """Answer what is open with a status after which the consumer tries again, and let go."""
        self.stop_accepting()
        for answer in list(self._open):
            if answer.attempt is not None:
                answer.attempt.abort(Status.SHUTTING_DOWN, "the daemon is shutting down")
        self._disconnect("stopped")
        for answer in list(self._open):
            self._let_go(answer)

    # The link and the family

    def _connect(self) -> None:
        if self._stopped:
            return
        try:
            self._link = self._open_link()
        except OSError as error:
            self._wait(f"no netlink: {error.strerror}")
            return
        self._loop.add_reader(self._link.commands, self._read, self._link.commands)
        self._loop.add_reader(self._link.events, self._read, self._link.events)
        self._resolve()

    def _disconnect(self, state: str) -> None:
        self._state = state
        self._family = None
        self._waiting.clear()
        self._accepting = False
        if self._watch is not None:
            self._watch.cancel()
        if self._link is not None:
            self._loop.remove_reader(self._link.commands)
            self._loop.remove_reader(self._link.events)
            self._link.close()
            self._link = None

    def _reconnect(self, why: str) -> None:
        log.warning("%s; connecting to the kernel anew", why)
        self._disconnect("connecting anew")
        self._connect()

    def _wait(self, state: str) -> None:
        """Try again later, or when the family comes."""
        if self._state != state:
            log.warning("kernel upcalls: %s", state)
        self._state = state
        self._set_watch(self._limits.retry, self._resolve if self._link is not None else self._connect)

    def _set_watch(self, seconds: float, call: Callable[[], None]) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_later(seconds, call)

    def _resolve(self) -> None:
        self._family = None
        if not self._stopped:
            self._set_watch(
                self._limits.answer, lambda: self._reconnect("the question for the family was not answered")
            )
            self._command(push_get_family, self._resolved)

    def _resolved(self, reply: FromKernel) -> None:
        if not isinstance(reply, Family) or reply.group is None or self._link is None:
            self._wait("the kernel has no family handshake yet; it comes with CONFIG_NET_HANDSHAKE (Linux 6.5)")
            return
        try:
            self._link.join(reply.group)
        except OSError as error:
            self._wait(f"READY cannot be heard: {error.strerror}")
            return
        self._family = family = reply
        if self._watch is not None:
            self._watch.cancel()
        self._state = "serving"
        self._send_answers()
        # What was pending before is taken now. -1 is no descriptor: an old kernel refuses the tag first.
        self._command(lambda sequence: push_done(family.number, sequence, -1, 0, (), ("probe",)), self._probed)
        self._accept()

    def _probed(self, reply: FromKernel) -> None:
        self._takes_tags = isinstance(reply, Acknowledgement) and reply.status != Status.INVALID
        log.info("kernel upcalls: serving; DONE takes %s", "tags" if self._takes_tags else "no tags")

    # Commands and what comes back

    def _command(self, push: Callable[[int], bytes], then: Callable[[FromKernel], None]) -> None:
        """Send a command; `then` gets its answer."""
        if self._link is None:
            return
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        self._waiting[self._sequence] = then
        try:
            self._link.commands.send(push(self._sequence), socket.MSG_DONTWAIT)
        except OSError as error:
            del self._waiting[self._sequence]
            then(Acknowledgement(error.errno or Status.FAILED))

    def _read(self, sock: socket.socket) -> None:
        while self._link is not None and sock.fileno() >= 0:
            try:
                packet = sock.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._overrun(sock, error)
                return
            if not packet:
                self._reconnect("the link was closed")
                return
            try:
                for sequence, message in pull_from_kernel(
                    packet, None if self._family is None else self._family.number
                ):
                    self._handle(sock, sequence, message)
            except FramingError as error:
                log.warning("a message of the kernel falls apart: %s", error.reason)

    def _overrun(self, sock: socket.socket, error: OSError) -> None:
        if error.errno != Status.NO_BUFFERS:
            self._reconnect(f"reading failed: {error.strerror}")
            return
        # Something was dropped. A READY costs nothing, for we ask; an answer to a command is one of ACCEPT or DONE.
        log.warning("messages of the kernel were lost (ENOBUFS); going on")
        if self._link is not None and sock is self._link.commands:
            waiting, self._waiting = self._waiting, {}
            for then in waiting.values():
                then(Acknowledgement(Status.NO_BUFFERS))
        self._accept()

    def _handle(self, sock: socket.socket, sequence: int, message: FromKernel) -> None:
        if isinstance(message, Ready):
            self._accept()
        elif isinstance(message, FamilyChange):
            log.info("kernel upcalls: the family %s", "is there" if message.present else "went away")
            if message.present:
                self._resolve()
            else:
                self._wait("the family went away")
        elif self._link is not None and sock is self._link.commands:
            then = self._waiting.pop(sequence, None)
            if then is not None:
                then(message)
            elif isinstance(message, Accepted | Unintelligible) and message.descriptor is not None:
                self._begin(message)  # an answer that we had given up on: the request is ours all the same

    # Requests

    def _accept(self) -> None:
        self._more = True
        if self._accepting or self._stopped or self._family is None or len(self._open) >= self._limits.handshakes:
            return
        self._more = False
        self._accepting = True
        family = self._family.number
        self._set_watch(self._limits.answer, lambda: self._reconnect("ACCEPT was not answered"))
        self._command(lambda sequence: push_accept(family, sequence), self._accepted)

    def _accepted(self, reply: FromKernel) -> None:
        self._accepting = False
        if self._watch is not None:
            self._watch.cancel()
        if isinstance(reply, Accepted | Unintelligible):
            self._begin(reply)
            # Not at once: handshakes go on in between, and other workers get their share.
            self._loop.call_soon(self._accept)
        elif isinstance(reply, Acknowledgement) and reply.status == Status.NOTHING_YET:
            if self._more:
                self._accept()
        elif isinstance(reply, Acknowledgement) and reply.status == Status.NO_SUCH:
            self._wait("the family went away")
        else:
            status = reply.status if isinstance(reply, Acknowledgement) else Status.FAILED
            log.warning("ACCEPT failed: %s", status_text(status))
            self._set_watch(self._limits.answer / 5, self._accept)

    def _begin(self, accepted: Accepted | Unintelligible) -> None:
        if accepted.descriptor is None:
            log.error("a request that cannot be answered: it has no socket")
            return
        self._counts["accepted"] += 1
        answer = _Answer(accepted.descriptor, self._answer)
        self._open.add(answer)
        if isinstance(accepted, Unintelligible):
            log.error("%s", accepted.reason)
            answer(Outcome(status=Status.INVALID, reason=accepted.reason))
            return
        try:
            answer.sock = sock = socket.socket(fileno=accepted.descriptor)
        except OSError as error:
            log.error("the kernel's descriptor %d is not a socket: %s", accepted.descriptor, error.strerror)
            answer(Outcome(status=Status.INVALID, reason="not a socket"))
            return
        open_path = self._paths.get(sock.proto)
        if open_path is None:
            log.error("a request for a socket of protocol %d, which is not served here", sock.proto)
            answer(Outcome(status=Status.UNSUPPORTED, reason=f"protocol {sock.proto} is not supported"))
            return
        try:
            answer.attempt = open_path(self._request(accepted, sock), sock, answer)
        finally:
            if answer.attempt is None:  # a fault of ours; it goes on to the log
                answer(Outcome(reason="internal error; the daemon's log has the details"))

    def _request(self, accepted: Accepted, sock: socket.socket) -> Request:
        limits = self._limits
        if accepted.timeout is None:
            timeout = limits.client_timeout if accepted.role is Role.CLIENT else limits.server_timeout
        else:
            timeout = max(limits.shortest_timeout, accepted.timeout - limits.margin)
        return Request(
            role=accepted.role,
            caller=KERNEL,
            timeout=min(timeout, limits.longest_timeout),
            auth_mode=accepted.auth_mode,
            server_name=accepted.peer_name,
            peer_address=_peer_address(sock),
            identity_keys=accepted.identity_keys,
            certificate_keys=accepted.certificate_keys,
            keyring=accepted.keyring,
        )

    # Answers

    def _answer(self, answer: _Answer, outcome: Outcome) -> None:
        self._unsent.append((answer, outcome))
        self._send_answers()

    def _send_answers(self) -> None:
        """Send what DONEs can be sent; the others wait for the family, or for room."""
        while self._unsent and self._link is not None and self._family is not None:
            answer, outcome = self._unsent[0]
            self._sequence = self._sequence % 0xFFFFFFFF + 1
            done = push_done(
                self._family.number,
                self._sequence,
                answer.descriptor,
                kernel_status(outcome.status),
                outcome.peer_keys,
                outcome.tags if self._takes_tags else (),
            )
            try:
                self._link.commands.send(done, socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno in (Status.NOTHING_YET, Status.NO_BUFFERS):
                    self._loop.call_later(_AGAIN_SECONDS, self._send_answers)
                    return
                log.error("DONE cannot be sent: %s; the consumer will time out", error.strerror)
            else:
                self._counts["answered"] += 1
                self._waiting[self._sequence] = self._acknowledged
            del self._unsent[0]
            self._let_go(answer)

    def _acknowledged(self, reply: FromKernel) -> None:
        if isinstance(reply, Acknowledgement) and reply.status not in (Status.OK, Status.NO_BUFFERS):
            self._counts["answers_refused"] += 1
            log.error("the kernel refuses a DONE: %s", status_text(reply.status))

    def _let_go(self, answer: _Answer) -> None:
        answer.close()
        self._open.discard(answer)
        if self._more:
            self._accept()


def _peer_address(sock: socket.socket) -> str | None:
    """The peer's numeric address; names are not looked up, which can take seconds."""
    try:
        address = sock.getpeername()
    except OSError:
        return None
    return address[0] if isinstance(address, tuple) else None
