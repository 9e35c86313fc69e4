"""What the client of a session of answers says, and what it has to say it with."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from hybrid.runtime.generation_records import PassRecord
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError

WORD = struct.Struct("<BI")


class Word(IntEnum):
    """What the client says comes next."""

    END = 0
    CONVERSATION = 1
    PASS = 2
    AHEAD = 3


class RefusedError(UsageError):
    """The client will not go on, and has sent nothing that says so: the session is as it was."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A pass that may run: its inputs were checked before anything was said."""

    rows: int
    fillers: int
    """Of the conversation."""
    own: dict[str, RingArray] = field(repr=False)
    """The client's share of every input: all of it."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a pass gives the client."""

    token: int = field(repr=False)
    """As it was opened: not compared with the vocabulary."""
    record: PassRecord
