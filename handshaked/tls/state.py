"""The states of a handshake and what may move it from one to the next: all of it, as data.

State names are those of RFC 8446 appendix A. A key of an inner table is the type of the message received, or PROCEED
for the answer to a ClientHello; its value is the states that this can lead to. What a table does not hold is an
unexpected_message.
"""

import enum
from collections.abc import Mapping

from handshaked.tls.codepoints import HandshakeType as Message

PROCEED = -1
"""In place of a message type: the caller has chosen by what the ClientHello says."""


class ServerState(enum.Enum):
    """RFC 8446 appendix A.2."""

    START = "start"
    RECVD_CH = "ClientHello is in, credential not yet chosen"
    RETRIED = "HelloRetryRequest is out"
    WAIT_EOED = "early data is accepted"
    WAIT_CERT = "client certificate asked for"
    WAIT_CV = "client certificate is in"
    WAIT_FINISHED = "flight is out"
    CONNECTED = "complete"
    FAILED = "failed"


class ClientState(enum.Enum):
    """RFC 8446 appendix A.1."""

    START = "start"
    WAIT_SH = "ClientHello is out"
    RETRIED = "second ClientHello is out"
    WAIT_EE = "ServerHello is in"
    WAIT_CERT_CR = "authentication by certificate"
    WAIT_CERT = "client certificate is asked for"
    WAIT_CV = "server certificate is in"
    WAIT_FINISHED = "server is authenticated"
    CONNECTED = "complete"
    FAILED = "failed"


State = ServerState | ClientState
Transitions = Mapping[State, Mapping[int, tuple[State, ...]]]

_S = ServerState
_SERVER_FLIGHT = (_S.WAIT_EOED, _S.WAIT_CERT, _S.WAIT_FINISHED)
SERVER_QUIC: Transitions = {
    _S.START: {Message.CLIENT_HELLO: (_S.RECVD_CH,)},
    _S.RECVD_CH: {PROCEED: (_S.RETRIED, *_SERVER_FLIGHT)},
    _S.RETRIED: {Message.CLIENT_HELLO: _SERVER_FLIGHT},
    _S.WAIT_CERT: {
        Message.CERTIFICATE: (_S.WAIT_CV, _S.WAIT_FINISHED),
        Message.COMPRESSED_CERTIFICATE: (_S.WAIT_CV, _S.WAIT_FINISHED),
    },
    _S.WAIT_CV: {Message.CERTIFICATE_VERIFY: (_S.WAIT_FINISHED,)},
    _S.WAIT_FINISHED: {Message.FINISHED: (_S.CONNECTED,)},
    _S.CONNECTED: {},
    _S.FAILED: {},
}
# RFC 9001 section 8.3 bans EndOfEarlyData and section 6 KeyUpdate; over TCP both exist.
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
    _C.WAIT_FINISHED: {Message.FINISHED: (_C.CONNECTED,)},
    _C.CONNECTED: {Message.NEW_SESSION_TICKET: (_C.CONNECTED,)},
    _C.FAILED: {},
}
CLIENT_TCP: Transitions = {
    **CLIENT_QUIC,
    _C.CONNECTED: {Message.NEW_SESSION_TICKET: (_C.CONNECTED,), Message.KEY_UPDATE: (_C.CONNECTED,)},
}
