"""The kernel's door: consumers in the kernel ask for handshakes, and each accepted request is answered exactly once.

One thread, one event loop. ACCEPT is sent whenever READY was heard, until the kernel has nothing more to give; only one
ACCEPT is under way at a time, and other handshakes go on between two of them. All workers do so at once, and whoever is
first gets a request. What gets lost on the way (ENOBUFS, a family that goes and comes back) costs one more ACCEPT or
DONE: asking too often does no harm, and the kernel takes a repeated DONE as a success and does nothing.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from handshaked.datapath.driver import Attempt
from handshaked.errors import Status, kernel_status, status_text
from handshaked.model import KERNEL, Outcome, Request, Role
from handshaked.upcall.kernel_connection import LOST, Connection, Link
from handshaked.upcall.kernel_messages import (
    Accepted,
    Acknowledgement,
    FromKernel,
    Unintelligible,
    push_accept,
    push_done,
)

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.1
_UNDELIVERED = frozenset((Status.NOTHING_YET, Status.NO_BUFFERS, Status.NOT_CONNECTED))

OpenPath = Callable[[Request, socket.socket, Callable[[Outcome], None]], Attempt]
"""Begins a request's handshake on its socket; the outcome is reported by a call, which may come at once."""


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """Bounds; times are in seconds.

    A consumer's own timeout counts less a `margin`, a quarter of it at most, so that it gets an answer while it waits.
    Those that name none wait 10 s as client and 5 s as server. The kernel's own answers may take ``answer``; a lost
    family is looked for every ``retry``, and an outcome that it cannot be told for ``undelivered`` is dropped.
    """

    handshakes: int = 1024
    client_timeout: float = 8.0
    server_timeout: float = 4.5
    margin: float = 0.5
    longest_timeout: float = 60.0
    answer: float = 5.0
    retry: float = 10.0
    undelivered: float = 30.0


class _Answer:
    """The one DONE of a request, and the descriptor that is closed behind it. Callable with the outcome."""

    def __init__(self, descriptor: int, send: Callable[["_Answer", Outcome], None]) -> None:
        self.descriptor = descriptor
        self.attempt: Attempt | None = None
        self.sock: socket.socket | None = None
        self.outcome = Outcome()
        self.give_up_at = 0.0
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


class KernelSource:
    """Takes requests from the family behind `open_link`; `paths` has what runs them, by the socket's protocol."""

    def __init__(self, open_link: Callable[[], Link], paths: Mapping[int, OpenPath], limits: KernelLimits) -> None:
        self._paths = paths
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(open_link, self, answer=limits.answer, retry=limits.retry)
        self._accepting = False
        self._more = False
        self._stopped = False
        self._open: set[_Answer] = set()
        self._unsent: list[_Answer] = []
        self._sending: asyncio.TimerHandle | None = None
        self._counts = {"accepted": 0, "answered": 0, "answers_refused": 0}
        self._connection.connect()

    @property
    def status(self) -> dict[str, Any]:
        """How it does, for people."""
        return {"state": self._connection.state, "in_flight": len(self._open), **self._counts}

    def stop_accepting(self) -> None:
        """Take no new requests: they stay for another worker, or for the next daemon."""
        self._stopped = True
        self._connection.deafen()

    def close(self) -> None:
        """Answer what is open with a status after which the consumer tries again, and let go."""
        self.stop_accepting()
        self._connection.collect()  # a request that was asked for is ours, and to be answered
        for answer in list(self._open):
            if answer.attempt is not None:
                answer.attempt.abort(Status.SHUTTING_DOWN, "the daemon is shutting down")
        self._connection.close()
        if self._sending is not None:
            self._sending.cancel()
        for answer in list(self._open):
            self._let_go(answer)

    # What the connection tells

    def serving(self) -> None:
        """Send what could not be sent, and take what was pending before."""
        if self._sending is not None:
            self._sending.cancel()
        self._send_answers()
        self._accept()

    def ready(self) -> None:
        """Take what is pending."""
        self._accept()

    def unexpected(self, message: FromKernel) -> None:
        """An answer that had been given up on: if it is a request, it is ours all the same."""
        if isinstance(message, Accepted | Unintelligible) and message.descriptor is not None:
            self._begin(message)

    # Requests

    def _accept(self) -> None:
        self._more = True
        if self._accepting or self._stopped or not self._connection.is_serving:
            return
        if len(self._open) >= self._limits.handshakes:
            return
        self._more = False
        self._accepting = True
        self._connection.command(push_accept, self._accepted)

    def _accepted(self, reply: FromKernel) -> None:
        self._accepting = False
        if isinstance(reply, Accepted | Unintelligible):
            # Not at once: handshakes go on in between, and other workers get their share.
            self._loop.call_soon(self._accept)
            self._begin(reply)
        elif reply == Acknowledgement(Status.NOTHING_YET):
            if self._more:
                self._accept()
        elif reply is not LOST:
            status = reply.status if isinstance(reply, Acknowledgement) else Status.FAILED
            log.warning("ACCEPT failed: %s", status_text(status))
            self._loop.call_later(self._limits.retry / 10, self._accept)

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
            timeout = accepted.timeout - min(limits.margin, accepted.timeout / 4)
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
        answer.outcome = outcome
        answer.give_up_at = self._loop.time() + self._limits.undelivered
        self._send(answer)

    def _send_answers(self) -> None:
        """Send the DONEs that have not got there."""
        self._sending = None
        unsent, self._unsent = self._unsent, []
        for answer in unsent:
            self._send(answer)

    def _send(self, answer: _Answer) -> None:
        outcome = answer.outcome
        tags = outcome.tags if self._connection.takes_tags else ()
        status = kernel_status(outcome.status)
        self._connection.command(
            lambda number, sequence: push_done(number, sequence, answer.descriptor, status, outcome.peer_keys, tags),
            partial(self._acknowledged, answer, tags),
        )

    def _acknowledged(self, answer: _Answer, tags: tuple[str, ...], reply: FromKernel) -> None:
        status = reply.status if isinstance(reply, Acknowledgement) else Status.FAILED
        if status == Status.OK:
            self._counts["answered"] += 1
        elif status == Status.INVALID and tags:
            self._connection.takes_tags = False
            self._send(answer)
            return
        elif status in _UNDELIVERED and self._loop.time() < answer.give_up_at:
            self._send_later(answer)
            return
        else:
            self._counts["answers_refused"] += 1
            log.error("the kernel refuses a DONE: %s; the consumer will time out", status_text(status))
        self._let_go(answer)

    def _send_later(self, answer: _Answer) -> None:
        self._unsent.append(answer)
        if self._sending is None:
            self._sending = self._loop.call_later(_AGAIN_SECONDS, self._send_answers)

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
