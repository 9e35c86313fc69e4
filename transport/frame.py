"""The header before every payload: one msgpack extension object of constant size."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import msgpack

from transport.errors import FrameError
from transport.traffic import FRAME_HEADER_BYTES

_EXTENSION_TYPE = 0x48
_FIELDS = struct.Struct("<4sHHIIQQB12x")
_MAGIC = b"HYBR"
FRAME_VERSION = 2
MAX_PAYLOAD_BYTES = 1 << 31
"""Larger payloads are refused."""


class FrameKind(IntEnum):
    """What a payload is for."""

    DATA = 1
    ABORT = 2
    """The sender failed; the payload is a short public reason."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its place in the conversation and its payload."""

    kind: FrameKind
    sequence: int
    """Counts the sender's frames from 0, so that a lost or repeated frame is noticed."""
    round: int
    sent_at_ns: int
    """Sender's monotonic clock; only the link model of one machine reads it."""
    payload: bytes | memoryview
    branch: int = 0
    """Which of several protocols that run at once it belongs to."""

    def header(self) -> bytes:
        """The 48 bytes that travel before the payload."""
        fields = _FIELDS.pack(
            _MAGIC,
            FRAME_VERSION,
            self.kind,
            self.sequence,
            self.round,
            len(self.payload),
            self.sent_at_ns,
            self.branch,
        )
        packed: bytes = msgpack.packb(msgpack.ExtType(_EXTENSION_TYPE, fields))
        assert len(packed) == FRAME_HEADER_BYTES
        return packed


def parse_frame(header: bytes, payload: bytes | memoryview) -> Frame:
    """Rebuild a frame from untrusted bytes."""
    if len(header) != FRAME_HEADER_BYTES:
        raise FrameError(f"frame header has {len(header)} bytes, expected {FRAME_HEADER_BYTES}")
    try:
        extension = msgpack.unpackb(header)
    except Exception as error:
        raise FrameError("frame header is not msgpack; is the peer this program?") from error
    if not isinstance(extension, msgpack.ExtType) or extension.code != _EXTENSION_TYPE:
        raise FrameError("frame header is not this protocol's; is the peer this program?")
    if len(extension.data) != _FIELDS.size:
        raise FrameError("frame header has the wrong fields; is the peer this version?")
    magic, version, kind, sequence, round_, size, sent_at_ns, branch = _FIELDS.unpack(
        extension.data
    )
    if magic != _MAGIC or version != FRAME_VERSION:
        raise FrameError(f"frame version {version} is not {FRAME_VERSION}; update the older party")
    if size > MAX_PAYLOAD_BYTES or size != len(payload):
        raise FrameError(f"frame announces {size} bytes and carries {len(payload)}")
    if kind not in (FrameKind.DATA, FrameKind.ABORT):
        raise FrameError(f"frame kind {kind} is unknown")
    return Frame(FrameKind(kind), sequence, round_, sent_at_ns, payload, branch)
