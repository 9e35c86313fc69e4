"""One table out of several, of many words each, taken obliviously and left shared.

The server offers tables, the client takes one by its number. Neither holds the table afterwards:
the server's share is a fresh uniform r, the client's what it took, less r.
"""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.oblivious_transfer import (
    MAX_CHOICE_BITS,
    one_of_many_cost,
    one_of_many_receive,
    one_of_many_send,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, RING_BYTES, RingArray
from transport.errors import UsageError
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party, Traffic

_SEED_WORDS = SEED_BYTES // RING_BYTES
_DOMAIN = "one of several long tables"


def take_table_cost(tables: int, words: int) -> Cost:
    """Cost of `offer_tables` with `take_table`, so many tables of so many words each."""
    if not words:
        return NO_COST
    # The tables follow the seeds without a wait.
    masked = Traffic(0, RING_BYTES * tables * words, 0, 1, 0)
    seeds = one_of_many_cost(_SEED_WORDS, _choice_bits(tables), RING_BITS, Party.SERVER)
    return seeds + Cost.of(masked)


def offer_tables(tables: RingArray, session: Session) -> RingArray:
    """The server's share, r of shape (...), of the one of `tables` (2, 4, 8 or 16, ...) taken.

    2 rounds. A 1-of-N transfer of seeds, each of which masks its own table less r: as [Naor-Pinkas
    99] for long messages.
    """
    own = session.randomness.uint64(tables.shape[1:])
    if own.size:
        seeds = session.randomness.uint64((_SEED_WORDS, len(tables)))
        one_of_many_send(seeds, RING_BITS, session)
        masked = [
            table - own + _expanded(seed, own.shape)
            for table, seed in zip(tables, seeds.T, strict=True)
        ]
        session.channel.send(np.stack(masked).tobytes())
    return own


def take_table(choice: int, tables: int, shape: tuple[int, ...], session: Session) -> RingArray:
    """The client's share of table number `choice`, of this shape; see `offer_tables`."""
    choice_bits = _choice_bits(tables)
    if not 0 <= choice < tables:
        raise UsageError(f"take_table: number {choice}; the tables are 0 to {tables - 1}")
    words = int(np.prod(shape))
    if not words:
        return np.zeros(shape, np.uint64)
    choices = np.full(_SEED_WORDS, choice, np.uint8)
    seed = one_of_many_receive(choices, choice_bits, RING_BITS, session).astype(np.uint64)
    data = session.channel.recv(RING_BYTES * tables * words)
    masked = np.frombuffer(data, np.uint64).reshape(tables, *shape)
    found: RingArray = masked[choice] - _expanded(seed, shape)
    return found


def _expanded(seed: RingArray, shape: tuple[int, ...]) -> RingArray:
    """Uniform to whoever does not have the seed, which is drawn for one table and used once."""
    return SecureRandom(seed.tobytes(), domain=_DOMAIN).uint64(shape)


def _choice_bits(tables: int) -> int:
    bits = tables.bit_length() - 1
    if tables != 1 << bits or not 1 <= bits <= MAX_CHOICE_BITS:
        raise UsageError(f"long tables: {tables} of them; use 2, 4, 8 or 16")
    return bits
