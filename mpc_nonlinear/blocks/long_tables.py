"""One table out of several, of many words each, taken obliviously and left shared.

The server offers tables, the client takes one by its number. Neither holds the table afterwards:
the server's share is a fresh uniform r, the client's what it took, less r. Several takings of the
same tables share rounds and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def take_tables_cost(tables: int, words: int, takings: int = 1) -> Cost:
    """Cost of `offer_tables` with `take_tables`, so many tables of so many words each."""
    if not words or not takings:
        return NO_COST
    # The tables follow the seeds without a wait.
    masked = Traffic(0, RING_BYTES * takings * tables * words, 0, takings, 0)
    choice_bits = _choice_bits(tables)
    seeds = one_of_many_cost(takings * _SEED_WORDS, choice_bits, RING_BITS, Party.SERVER)
    return seeds + Cost.of(masked)


def offer_tables(tables: RingArray, takings: int, session: Session) -> RingArray:
    """The server's shares, r of shape (takings, ...), of those of `tables` (N, ...) taken.

    N is 2, 4, 8 or 16. 2 rounds. A 1-of-N transfer of seeds, each of which masks its own table less
    its taking's r: as [Naor-Pinkas 99] for long messages.
    """
    own = session.randomness.uint64((takings, *tables.shape[1:]))
    if own.size:
        seeds = session.randomness.uint64((takings, _SEED_WORDS, len(tables)))
        one_of_many_send(seeds.reshape(-1, len(tables)), RING_BITS, session)
        for mask, by_table in zip(own, seeds, strict=True):
            masked = [
                table - mask + _expanded(seed, mask.shape)
                for table, seed in zip(tables, by_table.T, strict=True)
            ]
            session.channel.send(np.stack(masked).tobytes())
    return own


def take_tables(
    choices: Sequence[int], tables: int, shape: tuple[int, ...], session: Session
) -> RingArray:
    """The client's shares (takings, *shape) of tables of these numbers; see `offer_tables`."""
    choice_bits, words = _choice_bits(tables), int(np.prod(shape))
    wrong = [choice for choice in choices if not 0 <= choice < tables]
    if wrong:
        raise UsageError(f"take_tables: number {wrong[0]}; the tables are 0 to {tables - 1}")
    found = np.zeros((len(choices), *shape), np.uint64)
    if not found.size:
        return found
    bits = np.repeat(np.array(choices, np.uint8), _SEED_WORDS)
    seeds = one_of_many_receive(bits, choice_bits, RING_BITS, session).astype(np.uint64)
    for place, (choice, seed) in enumerate(
        zip(choices, seeds.reshape(-1, _SEED_WORDS), strict=True)
    ):
        data = session.channel.recv(RING_BYTES * tables * words)
        masked = np.frombuffer(data, np.uint64).reshape(tables, *shape)
        found[place] = masked[choice] - _expanded(seed, shape)
    return found


def _expanded(seed: RingArray, shape: tuple[int, ...]) -> RingArray:
    """Uniform to whoever does not have the seed, which is drawn for one table and used once."""
    return SecureRandom(seed.tobytes(), domain=_DOMAIN).uint64(shape)


def _choice_bits(tables: int) -> int:
    bits = tables.bit_length() - 1
    if tables != 1 << bits or not 1 <= bits <= MAX_CHOICE_BITS:
        raise UsageError(f"long tables: {tables} of them; use 2, 4, 8 or 16")
    return bits
