"""The upcall source for the kernel: its consumers request handshakes, and each accepted request gets exactly one DONE.

One thread and one event loop. After READY, ACCEPT is sent until no request is pending; only one ACCEPT is outstanding
at a time, and other handshakes continue between two of them. All workers do this at once, and the first one gets the
request. Lost messages (ENOBUFS, a family that disappears and returns) cost one more ACCEPT or DONE: a superfluous
ACCEPT is harmless, and the kernel acknowledges a repeated DONE without effect.
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
    InvalidRequest,
    push_accept,
    push_done,
)

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.1
_UNDELIVERED = frozenset((Status.WOULD_BLOCK, Status.NO_BUFFERS, Status.NOT_CONNECTED))

OpenPath = Callable[[Request, socket.socket, Callable[[Outcome], None]], Attempt]
"""Starts a request's handshake on its socket; calls the last argument with the outcome, possibly before it returns."""


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """Limits; times are in seconds.

    A consumer's own timeout is reduced by ``margin``, at most by a quarter, so that DONE arrives while it still waits.
    Consumers without a timeout wait 10 s as client and 5 s as server. ``answer`` is the time limit for the kernel's
    answers, ``retry`` the interval of attempts to find a lost family; an outcome that the kernel does not accept for
    ``undelivered`` is dropped.
    """

    handshakes: int = 1024
    client_timeout: float = 8.0
    server_timeout: float = 4.5
    margin: float = 0.5
    longest_timeout: float = 60.0
    answer: float = 5.0
    retry: float = 10.0
    undelivered: float = 30.0


_REMEDIES = {
    Status.NOT_PERMITTED: "; CAP_NET_ADMIN is missing",
    # The kernel links the keyring of a consumer such as NVMe/TCP to the process that accepts its request.
    Status.REFUSED: (
        "; the consumer's keyring, such as .nvme, belongs to root: run the service as root"
        " (systemctl edit handshaked.service: User=root, Group=root)"
    ),
}
"""Advice for the log when ACCEPT is refused."""


class _Answer:
    """The one DONE of a request, and the descriptor that is closed after it. Callable with the outcome."""

    def __init__(self, descriptor: int, send: Callable[["_Answer", Outcome], None]) -> None:
        self.descriptor = descriptor
        self.attempt: Attempt | None = None
        self.sock: socket.socket | None = None
        self.outcome = Outcome()
        self.give_up_at = 0.0
        self._send: Callable[[_Answer, Outcome], None] | None = send

    def __call__(self, outcome: Outcome) -> None:
        """Report `outcome`; only the first call has an effect."""
        send, self._send = self._send, None
        if send is not None:
            send(self, outcome)

    def close(self) -> None:
        """Close the descriptor."""
        try:
            if self.sock is not None:
                self.sock.close()
            else:
                os.close(self.descriptor)
        except OSError as error:
            log.debug("descriptor %d: %s", self.descriptor, error.strerror)


class KernelSource:
    """Accepts requests from the family that `open_link` connects to; `paths` run them, by the socket's protocol."""

    def __init__(self, open_link: Callable[[], Link], paths: Mapping[int, OpenPath], limits: KernelLimits) -> None:
        self._paths = paths
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(open_link, self, answer=limits.answer, retry=limits.retry)
        self._accepting = False
        self._more = False
        self._refused = Status.OK
        """The status of the last ACCEPT that failed; the same one is not logged again."""
        self._stopped = False
        self._open: set[_Answer] = set()
        self._unsent: list[_Answer] = []
        self._sending: asyncio.TimerHandle | None = None
        self._counts = {"accepted": 0, "answered": 0, "answers_refused": 0}
        self._connection.connect()

    @property
    def status(self) -> dict[str, Any]:
        """The state of the connection and counters, for administrators."""
        return {"state": self._connection.state, "in_flight": len(self._open), **self._counts}

    def stop_accepting(self) -> None:
        """Accept no new requests: they stay pending for other workers, or for the next daemon."""
        self._stopped = True
        self._connection.leave_events()

    def close(self) -> None:
        """Answer all open requests with a status after which consumers retry, and disconnect."""
        self.stop_accepting()
        self._connection.receive_pending()  # a request that was already accepted must be answered
        for answer in list(self._open):
            if answer.attempt is not None:
                answer.attempt.abort(Status.SHUTTING_DOWN, "the daemon is shutting down")
        self._connection.close()
        if self._sending is not None:
            self._sending.cancel()
        for answer in list(self._open):
            self._release(answer)

    # Called by the connection

    def serving(self) -> None:
        """Send unsent answers, and accept pending requests."""
        if self._sending is not None:
            self._sending.cancel()
        self._send_answers()
        self._accept()

    def ready(self) -> None:
        """Accept pending requests."""
        self._accept()

    def unexpected(self, message: FromKernel) -> None:
        """Handle an answer after its timeout: if it is a request, it must be answered nevertheless."""
        if isinstance(message, Accepted | InvalidRequest) and message.descriptor is not None:
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
        if isinstance(reply, Accepted | InvalidRequest):
            self._refused = Status.OK
            # Later: handshakes continue in between, and other workers get their share.
            self._loop.call_soon(self._accept)
            self._begin(reply)
        elif reply == Acknowledgement(Status.WOULD_BLOCK):
            if self._more:
                self._accept()
        elif reply is not LOST:
            status = reply.status if isinstance(reply, Acknowledgement) else Status.FAILED
            if status != self._refused:
                log.warning("ACCEPT failed: %s%s", status_text(status), _REMEDIES.get(status, ""))
            self._refused = status
            self._loop.call_later(self._limits.retry / 10, self._accept)

    def _begin(self, accepted: Accepted | InvalidRequest) -> None:
        if accepted.descriptor is None:
            log.error("kernel request without a socket: it cannot be answered")
            return
        self._counts["accepted"] += 1
        answer = _Answer(accepted.descriptor, self._answer)
        self._open.add(answer)
        if isinstance(accepted, InvalidRequest):
            log.error("%s", accepted.reason)
            answer(Outcome(status=Status.INVALID, reason=accepted.reason))
            return
        try:
            answer.sock = sock = socket.socket(fileno=accepted.descriptor)
        except OSError as error:
            log.error(
                "kernel request with a descriptor (%d) that is not a socket: %s", accepted.descriptor, error.strerror
            )
            answer(Outcome(status=Status.INVALID, reason="not a socket"))
            return
        open_path = self._paths.get(sock.proto)
        if open_path is None:
            log.error("kernel request for a socket with the unsupported protocol %d", sock.proto)
            answer(Outcome(status=Status.UNSUPPORTED, reason=f"protocol {sock.proto} is not supported"))
            return
        try:
            answer.attempt = open_path(self._request(accepted, sock), sock, answer)
        finally:
            if answer.attempt is None:  # an error of ours, which propagates to the log
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
        """Send the DONEs that were not delivered."""
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
            log.error("the kernel refused a DONE: %s; the consumer will time out", status_text(status))
        self._release(answer)

    def _send_later(self, answer: _Answer) -> None:
        self._unsent.append(answer)
        if self._sending is None:
            self._sending = self._loop.call_later(_AGAIN_SECONDS, self._send_answers)

    def _release(self, answer: _Answer) -> None:
        answer.close()
        self._open.discard(answer)
        if self._more:
            self._accept()


def _peer_address(sock: socket.socket) -> str | None:
    """Return the peer's numeric address; name resolution could take seconds."""
    try:
        address = sock.getpeername()
    except OSError:
        return None
    return address[0] if isinstance(address, tuple) else None
