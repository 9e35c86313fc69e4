"""The root of the project's exceptions.

HybridError
 +- TransportError
 |   +- PeerLostError          the peer's process or connection is gone
 |   +- ReceiveTimeoutError    the peer is connected but silent for too long
 |   +- FrameError             a frame is not what the protocol expects here
 |   +- HandshakeError         the peer runs another version, config or plan
 +- ParameterError             homomorphic parameters that are unknown or insecure
 +- ConfigError                a user's config, argument or file is wrong
 +- UsageError                 a function was called with shapes or states it cannot serve

Every message names place, value and remedy.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FrameError",
    "HandshakeError",
    "HybridError",
    "ParameterError",
    "PeerLostError",
    "ReceiveTimeoutError",
    "TransportError",
    "UsageError",
]


class HybridError(Exception):
    """Anything this project reports to a user as one line."""


class TransportError(HybridError):
    """The channel to the peer failed."""


class PeerLostError(TransportError):
    """The peer closed the channel, was killed, or stopped answering heartbeats."""


class ReceiveTimeoutError(TransportError):
    """Nothing arrived within the receive timeout."""


class FrameError(TransportError):
    """A frame arrived that the protocol does not expect: wrong size, order or content."""


class HandshakeError(TransportError):
    """The peer speaks another protocol version or runs another config or plan."""


class ParameterError(HybridError):
    """Homomorphic parameters that are malformed or below 128-bit security."""


class ConfigError(HybridError):
    """A config file, argument or model folder that cannot be used as it is."""


class UsageError(HybridError):
    """A library call with shapes or in a state that it cannot serve."""
