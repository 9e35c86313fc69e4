"""What the client of a session of answers says, and what it has to say it with."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from hybrid.models.generator import PublicGenerator
from hybrid.runtime.generation_records import PassRecord
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import FrameError, UsageError

WORD = struct.Struct("<BI")


class Word(IntEnum):
    """What the client says comes next."""

    END = 0
    CONVERSATION = 1
    PASS = 2
    AHEAD = 3


def packed_idle(idle: Sequence[int]) -> bytes:
    """Idle rows of conversations that share passes, two bytes each; they follow `CONVERSATION`."""
    return np.array(idle, "<u2").tobytes()


def parsed_idle(data: bytes, model: PublicGenerator) -> tuple[int, ...]:
    """Of untrusted bytes: whole buckets, and none where they make no difference."""
    idle = tuple(int(rows) for rows in np.frombuffer(data, "<u2"))
    is_wrong = any(idle) and not model.keeps_distance
    if is_wrong or any(rows % model.settings.prompt_bucket for rows in idle):
        raise FrameError("setup: the client's idle rows cannot be; same version?")
    return idle


class RefusedError(UsageError):
    """The client will not go on, and has sent nothing that says so: the session is as it was."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A pass that may run: its inputs were checked before anything was said."""

    rows: int
    """Of each conversation."""
    fillers: tuple[int, ...]
    """Of each conversation, without idle rows."""
    idle: tuple[int, ...]
    own: dict[str, RingArray] = field(repr=False)
    """The client's share of every input: all of it."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a pass gives the client."""

    tokens: tuple[int, ...] = field(repr=False)
    """Of each conversation, as they were opened: not compared with the vocabulary."""
    record: PassRecord

    @property
    def token(self) -> int:
        """Of the first conversation."""
        return self.tokens[0]
