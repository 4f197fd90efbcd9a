"""The states of a handshake and its transitions, as data.

State names are those of RFC 8446 appendix A; their values describe them in logs and documentation. A table maps a state
to the messages that are expected in it, each with the possible next states. Any other message causes the alert
unexpected_message, and every error leads to FAILED. The pictures in ``docs/`` are drawn from the tables.
"""

import enum
from collections.abc import Mapping

from handshaked.tls.codepoints import HandshakeType as Message

PROCEED = -1
"""Used in place of a message type for the caller's ``proceed`` (server) or ``start`` (client)."""
SIGNED = -2
"""Used in place of a message type for the caller's ``proceed_with_signature``."""


class ServerState(enum.Enum):
    """RFC 8446 appendix A.2."""

    START = "start"
    RECVD_CH = "ClientHello received, credential not selected"
    RETRIED = "HelloRetryRequest sent"
    WAIT_SIGNATURE = "ServerHello sent, waiting for the signature of the own CertificateVerify"
    WAIT_EOED = "early data accepted, waiting for EndOfEarlyData"
    WAIT_CERT = "waiting for the client's Certificate"
    WAIT_CV = "waiting for the client's CertificateVerify"
    WAIT_FINISHED = "waiting for the client's Finished"
    CONNECTED = "handshake complete"
    FAILED = "failed"


class ClientState(enum.Enum):
    """RFC 8446 appendix A.1."""

    START = "start"
    WAIT_SH = "ClientHello sent, waiting for ServerHello"
    RETRIED = "second ClientHello sent, waiting for ServerHello"
    WAIT_EE = "waiting for EncryptedExtensions"
    WAIT_CERT_CR = "waiting for CertificateRequest or Certificate"
    WAIT_CERT = "client certificate requested, waiting for the server's Certificate"
    WAIT_CV = "waiting for the server's CertificateVerify"
    WAIT_FINISHED = "waiting for the server's Finished"
    WAIT_SIGNATURE = "server verified, waiting for the signature of the own CertificateVerify"
    CONNECTED = "handshake complete"
    FAILED = "failed"


State = ServerState | ClientState
Transitions = Mapping[State, Mapping[int, tuple[State, ...]]]

_S = ServerState
_SERVER_FLIGHT = (_S.WAIT_SIGNATURE, _S.WAIT_EOED, _S.WAIT_CERT, _S.WAIT_FINISHED)
SERVER_QUIC: Transitions = {
    _S.START: {Message.CLIENT_HELLO: (_S.RECVD_CH,)},
    _S.RECVD_CH: {PROCEED: (_S.RETRIED, *_SERVER_FLIGHT)},
    _S.RETRIED: {Message.CLIENT_HELLO: _SERVER_FLIGHT},
    _S.WAIT_SIGNATURE: {SIGNED: (_S.WAIT_CERT, _S.WAIT_FINISHED)},
    _S.WAIT_CERT: {
        Message.CERTIFICATE: (_S.WAIT_CV, _S.WAIT_FINISHED),
        Message.COMPRESSED_CERTIFICATE: (_S.WAIT_CV, _S.WAIT_FINISHED),
    },
    _S.WAIT_CV: {Message.CERTIFICATE_VERIFY: (_S.WAIT_FINISHED,)},
    _S.WAIT_FINISHED: {Message.FINISHED: (_S.CONNECTED,)},
    _S.CONNECTED: {},
    _S.FAILED: {},
}
# TCP only: RFC 9001 forbids EndOfEarlyData (section 8.3) and KeyUpdate (section 6).
SERVER_TCP: Transitions = {
    **SERVER_QUIC,
    _S.WAIT_EOED: {Message.END_OF_EARLY_DATA: (_S.WAIT_CERT, _S.WAIT_FINISHED)},
    _S.CONNECTED: {Message.KEY_UPDATE: (_S.CONNECTED,)},
}

_C = ClientState
CLIENT_QUIC: Transitions = {
    _C.START: {PROCEED: (_C.WAIT_SH,)},
    _C.WAIT_SH: {Message.SERVER_HELLO: (_C.WAIT_EE, _C.RETRIED)},
    _C.RETRIED: {Message.SERVER_HELLO: (_C.WAIT_EE,)},
    _C.WAIT_EE: {Message.ENCRYPTED_EXTENSIONS: (_C.WAIT_CERT_CR, _C.WAIT_FINISHED)},
    _C.WAIT_CERT_CR: {
        Message.CERTIFICATE_REQUEST: (_C.WAIT_CERT,),
        Message.CERTIFICATE: (_C.WAIT_CV,),
        Message.COMPRESSED_CERTIFICATE: (_C.WAIT_CV,),
    },
    _C.WAIT_CERT: {Message.CERTIFICATE: (_C.WAIT_CV,), Message.COMPRESSED_CERTIFICATE: (_C.WAIT_CV,)},
    _C.WAIT_CV: {Message.CERTIFICATE_VERIFY: (_C.WAIT_FINISHED,)},
    _C.WAIT_FINISHED: {Message.FINISHED: (_C.WAIT_SIGNATURE, _C.CONNECTED)},
    _C.WAIT_SIGNATURE: {SIGNED: (_C.CONNECTED,)},
    _C.CONNECTED: {Message.NEW_SESSION_TICKET: (_C.CONNECTED,)},
    _C.FAILED: {},
}
CLIENT_TCP: Transitions = {
    **CLIENT_QUIC,
    _C.CONNECTED: {Message.NEW_SESSION_TICKET: (_C.CONNECTED,), Message.KEY_UPDATE: (_C.CONNECTED,)},
}
