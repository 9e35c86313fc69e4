"""What the parties compare before anything secret moves, and plain public data in general."""

from __future__ import annotations

from collections.abc import Mapping

import msgpack

from transport.channel import Channel
from transport.errors import FrameError, HandshakeError, UsageError
from transport.foreign import cut

PROTOCOL_VERSION = 5
"""Raised with every change of what the parties say to each other."""
HANDSHAKE_BYTES = 1 << 15
"""Size limit of one side's facts."""
_VERSION_FACT = "protocol version"
_MAX_DEPTH = 16
_SHOWN_CHARACTERS = 40
_INTEGERS = range(-(1 << 63), 1 << 64)


def handshake(channel: Channel, facts: Mapping[str, str]) -> None:
    """Exchange the protocol version and `facts` and compare; 1 round.

    Facts are public names of what must be equal: keys of the config, a hash of the plan.
    `HandshakeError`, at both parties, names the first that differs.
    """
    mine = {_VERSION_FACT: str(PROTOCOL_VERSION), **facts}
    send_public(channel, mine, HANDSHAKE_BYTES)
    theirs = _parse_facts(recv_public(channel, HANDSHAKE_BYTES))
    if theirs[_VERSION_FACT] != mine[_VERSION_FACT]:
        raise HandshakeError(
            f"handshake: the peer speaks protocol version {_shown(theirs[_VERSION_FACT])}, this "
            f"party {PROTOCOL_VERSION}; install the same release at both"
        )
    if theirs.keys() != mine.keys():
        names = cut(", ".join(sorted(_shown(name) for name in theirs.keys() ^ mine.keys())))
        raise HandshakeError(
            f"handshake: only one party has {names}; give both the same config and release"
        )
    for name, value in mine.items():
        if theirs[name] != value:
            raise HandshakeError(
                f"handshake: {name} is {_shown(value)} at this party and "
                f"{_shown(theirs[name])} at the peer; start both with the same config and release"
            )


def send_public(channel: Channel, data: object, max_bytes: int | None = None) -> None:
    """Send plain public data as msgpack; 1 round.

    Plain: None, bool, int of 64 bits, float, str, bytes, lists of these and dicts with str
    keys, 16 levels deep at most. Anything else is a `UsageError`, not a conversion.
    """
    _require_plain(data, "public data", UsageError)
    packed: bytes = msgpack.packb(data, strict_types=True)
    if max_bytes is not None and len(packed) > max_bytes:
        raise UsageError(f"public data of {len(packed)} bytes; at most {max_bytes} may be sent")
    channel.send(packed)


def recv_public(channel: Channel, max_bytes: int) -> object:
    """Receive what `send_public` sent, at most `max_bytes` of it; `FrameError` otherwise."""
    data = channel.recv()
    if len(data) > max_bytes:
        raise FrameError(
            f"public data: the peer sent {len(data)} bytes where at most {max_bytes} were "
            "expected; are both parties the same version?"
        )
    try:
        plain: object = msgpack.unpackb(data, strict_map_key=True, ext_hook=msgpack.ExtType)
    except Exception as error:
        raise FrameError(
            "public data: the peer sent malformed msgpack; are both parties the same version?"
        ) from error
    _require_plain(plain, "public data from the peer", FrameError)
    return plain


def _require_plain(
    data: object, place: str, error: type[UsageError] | type[FrameError], depth: int = 0
) -> None:
    if depth > _MAX_DEPTH:
        raise error(f"{place}: nested deeper than {_MAX_DEPTH} levels; flatten it")
    if type(data) is dict:
        for key, value in data.items():
            if type(key) is not str:
                raise error(f"{place}: a key is {type(key).__name__}; use str")
            _require_plain(value, place, error, depth + 1)
    elif type(data) is list:
        for value in data:
            _require_plain(value, place, error, depth + 1)
    elif type(data) is int:
        if data not in _INTEGERS:
            raise error(f"{place}: an integer needs more than 64 bits; use str")
    elif data is not None and type(data) not in (bool, float, str, bytes):
        raise error(f"{place}: {type(data).__name__} is not plain data; convert it first")


def _parse_facts(data: object) -> dict[str, str]:
    if (
        not isinstance(data, dict)
        or not all(isinstance(value, str) for value in data.values())
        or _VERSION_FACT not in data
    ):
        raise HandshakeError(
            "handshake: the peer did not send its facts; is it this program, and this release?"
        )
    return data


def _shown(text: str) -> str:
    """The first characters, harmless to a terminal."""
    return cut(text, _SHOWN_CHARACTERS)
