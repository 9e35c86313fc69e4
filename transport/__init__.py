"""Bytes between the two parties: counted, bounded, and as reliable as the peer.

Knows nothing of what the bytes mean. `Channel` counts; `memory_pair` and `run_both` serve one
process, `listen` and `connect` two; `handshake` compares public facts before anything secret
moves.

It is the only package that both engines share, and so the ground of all others. Therefore it also
holds the errors (`errors`), secret randomness (`randomness`), words as bits (`bitpack`), and
counted computing (`computing`): both engines declare their work in its units, and two clocks, one
a party, play that work together with the traffic, since a party that waits for a frame waits for
the work before it as well. Uses no other package of the project.
"""

from transport.channel import SETUP, Channel
from transport.curve import CurveKeys, generate_keys, load_client_keys, load_server_keys
from transport.errors import (
    ConfigError,
    FrameError,
    HandshakeError,
    HybridError,
    ParameterError,
    PeerLostError,
    ReceiveTimeoutError,
    TransportError,
    UsageError,
)
from transport.handshake import PROTOCOL_VERSION, handshake, recv_public, send_public
from transport.link import LinkModel
from transport.local import MemoryChannel, memory_pair, run_both
from transport.randomness import SecureRandom
from transport.traffic import FRAME_HEADER_BYTES, NO_TRAFFIC, Party, Traffic
from transport.zmq_channel import ZmqChannel, connect, listen, loopback_bytes

__all__ = [
    "FRAME_HEADER_BYTES",
    "NO_TRAFFIC",
    "PROTOCOL_VERSION",
    "SETUP",
    "Channel",
    "ConfigError",
    "CurveKeys",
    "FrameError",
    "HandshakeError",
    "HybridError",
    "LinkModel",
    "MemoryChannel",
    "ParameterError",
    "Party",
    "PeerLostError",
    "ReceiveTimeoutError",
    "SecureRandom",
    "Traffic",
    "TransportError",
    "UsageError",
    "ZmqChannel",
    "connect",
    "generate_keys",
    "handshake",
    "listen",
    "load_client_keys",
    "load_server_keys",
    "loopback_bytes",
    "memory_pair",
    "recv_public",
    "run_both",
    "send_public",
]
