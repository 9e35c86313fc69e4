"""A power of one number a row, shared modulo a prime, opened under a mask.

The client says, hidden, in which cell its share lies and where; the server offers, for every cell,
the coefficients of the cell's polynomial less masks of its own, of which the client takes one
entry. Of a coefficient's mask times the client's place each gets a share at once, from a prepared
product, so the client ends with its share of the power, and the server has its own before. An entry
of a window says by which of two masks the next window's entry is read: as a number that is the next
window's, or as one that was taken already, for which all is zero; which is which is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.long_entries import (
    EntriesTaken,
    entries_bytes,
    entries_demand,
    flips_bytes,
    offered_entries,
)
from mpc_nonlinear.blocks.power_cells import DEGREE, PowerCells, Window
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.dealt import prime_cross_kind
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic

_TERMS = DEGREE + 1


def opened_powers_cost(rows: int, powers: PowerCells) -> Cost:
    """Cost of `opened_powers` for `rows` numbers: three messages, from the client, back, forth."""
    t, windows = powers.modulus, powers.windows
    places, words = len(windows) * DEGREE * rows, packed_bytes(rows, t.bit_length())
    asked = sum(flips_bytes(rows, w.choice_bits) for w in windows)
    offered = sum(entries_bytes(rows, *_table(w), t) for w in windows)
    demand = sum((entries_demand(rows, *_table(w), t) for w in windows), Demand())
    traffic = (
        Traffic.message(Party.CLIENT, asked + packed_bytes(places, t.bit_length()))
        + Traffic.message(Party.SERVER, offered + words)
        + Traffic.message(Party.CLIENT, words)
    )
    demand += Demand.of(prime_cross_kind(t), places)
    return Cost.of(traffic, demand, units(prime_multiply_add=2 * places))


def opened_powers(s: RingArray, mask: RingArray, powers: PowerCells, session: Session) -> RingArray:
    """The power of s less a mask modulo t, to both, from shares (n,) modulo t of both.

    Off by `powers.error` of the power. mask: uniform modulo t, for this alone. 3 rounds. Piecewise
    polynomials as the splines of [Liu17] MiniONN, eprint 2017/452, Section 5.3, of pieces that the
    parties' shares cut; entries for two cases as the rows of a garbled gate.
    """
    session.channel.next_round()
    if session.party is Party.CLIENT:
        return _ask(s, mask, powers, session)
    return _answer(s, mask, powers, session)


def _table(window: Window) -> tuple[int, int]:
    """Bits of a cell's number, residues of an entry with its copies."""
    return window.choice_bits, window.copies * window.residues


def _moved(s: RingArray, window: Window) -> RingArray:
    """Shares of what the window's cells are of."""
    factor = np.full_like(s, window.factor % window.modulus)
    return multiply_add(s, factor, np.zeros_like(s), window.modulus)


# -- the client ----------------------------------------------------------------------------


def _ask(s: RingArray, mask: RingArray, powers: PowerCells, session: Session) -> RingArray:
    t, n, windows = powers.modulus, len(s), powers.windows
    bits = t.bit_length()
    found = [w.cell_of(_moved(s, w)) for w in windows]
    basis = np.stack([part for _, part in found], axis=1)
    hidden, shares = (
        part.reshape(basis.shape)
        for part in session.prepared.dealt(prime_cross_kind(t), basis.size)
    )
    taken = [
        EntriesTaken(index, *_table(w), t, session)
        for (index, _), w in zip(found, windows, strict=True)
    ]
    away = (basis + np.uint64(t) - hidden) % np.uint64(t)
    flips = b"".join(one.message for one in taken)
    session.channel.send(flips + pack_bits(away.reshape(-1), bits))
    lengths = [entries_bytes(n, *_table(w), t) for w in windows]
    data = memoryview(session.channel.recv(sum(lengths) + packed_bytes(n, bits)))
    entries, at = [], 0
    for one, length in zip(taken, lengths, strict=True):
        entries.append(one.read(data[at : at + length]))
        at += length
    coefficients = _unlocked(entries, powers)
    # Coefficients less masks at the place itself, and a share of the masks there.
    terms = multiply_add(coefficients[..., 1:], basis, shares, t)
    total = coefficients[..., 0].sum(axis=1) + terms.reshape(n, -1).sum(axis=1)
    own = pack_bits((total + np.uint64(t) - mask) % np.uint64(t), bits)
    session.channel.send(own)
    return _sum(own, data[at:], n, t)


def _unlocked(entries: list[RingArray], powers: PowerCells) -> RingArray:
    """Coefficients less masks, (n, windows, 1 + DEGREE), of entries window by window."""
    t, n = np.uint64(powers.modulus), len(entries[0])
    found, locks, place = [], np.zeros((n, 0), np.uint64), np.zeros(n, np.uint64)
    windows = powers.windows
    for index, (entry, window) in enumerate(zip(entries, windows, strict=True)):
        copies = entry.reshape(n, window.copies, window.residues)
        if window.copies > 1:
            chosen = copies[np.arange(n), place.astype(np.intp)]
            entry = (chosen + t - locks) % t
        found.append(entry[:, :_TERMS])
        locks, place = entry[:, _TERMS:-1], entry[:, -1]
        if index < len(windows) - 1 and place.max(initial=0) > 1:
            raise FrameError("powers of rows: an entry is of neither case; the frame is corrupt")
    return np.stack(found, axis=1)


# -- the server ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Locks:
    """What a window's entries are read by: for its own numbers, and for those taken before."""

    masks: RingArray
    """(2, n, residues), uniform modulo t: of numbers taken before, of the window's own."""
    place: BitArray
    """(n,): where the entry for numbers taken before stands."""


def _answer(s: RingArray, mask: RingArray, powers: PowerCells, session: Session) -> RingArray:
    t, n, windows = powers.modulus, len(s), powers.windows
    bits, places = t.bit_length(), n * len(windows) * DEGREE
    lengths = [flips_bytes(n, w.choice_bits) for w in windows]
    data = memoryview(session.channel.recv(sum(lengths) + packed_bytes(places, bits)))
    shape = n, len(windows), DEGREE
    hidden, shares = (
        part.reshape(shape) for part in session.prepared.dealt(prime_cross_kind(t), places)
    )
    rng = session.randomness
    constants = _drawn((n, len(windows)), t, rng)
    masks = np.concatenate([constants[..., None], hidden], axis=-1)
    messages, at, locks = [], 0, None
    for place, window in enumerate(windows):
        below = None
        if place + 1 < len(windows):
            residues = windows[place + 1].residues
            drawn = np.frombuffer(rng.bytes(n), np.uint8) & np.uint8(1)
            below = _Locks(_drawn((2, n, residues), t, rng), drawn)
        table = _entries(_moved(s, window), masks[:, place], powers, window, (locks, below))
        flips = data[at : at + lengths[place]]
        messages.append(offered_entries(table, flips, t, session))
        at, locks = at + lengths[place], below
    away = _words(data[at:], places, t).reshape(shape)
    terms = multiply_add(away, hidden, shares, t)
    total = constants.sum(axis=1) + terms.reshape(n, -1).sum(axis=1)
    own = pack_bits((total + np.uint64(t) - mask) % np.uint64(t), bits)
    session.channel.send(b"".join(messages) + own)
    return _sum(own, session.channel.recv(len(own)), n, t)


def _entries(
    s: RingArray,
    masks: RingArray,
    powers: PowerCells,
    window: Window,
    locks: tuple[_Locks | None, _Locks | None],
) -> RingArray:
    """(n, cells, copies * residues): by `locks` of this window, with those of the next one."""
    t, (own, below) = np.uint64(powers.modulus), locks
    starts = window.starts_of(s)
    found = powers.coefficients(window, starts)
    goes_on = np.zeros(starts.shape, np.bool_)
    if below is not None:
        goes_on = starts < window.start * window.factor
        found = np.where(goes_on[..., None], np.uint64(0), found)
    cases = [_entry(found, masks, goes_on, below, t)]
    if own is not None:
        # Of numbers taken before, nothing; the next window has nothing for them either.
        none = _entry(np.zeros_like(found), masks, np.zeros_like(goes_on), below, t)
        both = np.stack([none, cases[0]]) + own.masks[:, :, None, :]
        swapped = (own.place == 1)[:, None, None]
        first, second = both[0] % t, both[1] % t
        cases = [np.where(swapped, second, first), np.where(swapped, first, second)]
    return np.concatenate(cases, axis=-1)


def _entry(
    coefficients: RingArray,
    masks: RingArray,
    goes_on: NDArray[np.bool_],
    below: _Locks | None,
    t: np.uint64,
) -> RingArray:
    """(n, cells, residues)."""
    hidden = (coefficients + t - masks[:, None]) % t
    if below is None:
        return hidden
    chosen = np.where(goes_on[..., None], below.masks[1][:, None], below.masks[0][:, None])
    place = (below.place[:, None] ^ goes_on).astype(np.uint64)
    return np.concatenate([hidden, chosen, place[..., None]], axis=-1)


# -- both ----------------------------------------------------------------------------------


def _drawn(shape: tuple[int, ...], modulus: int, rng: SecureRandom) -> RingArray:
    """Uniform modulo t, by rejection."""
    count, mask = int(np.prod(shape)), np.uint64((1 << modulus.bit_length()) - 1)
    found = np.empty(0, np.uint64)
    while len(found) < count:
        words = rng.uint64((count - len(found) + 64,)) & mask
        found = np.concatenate([found, words[words < np.uint64(modulus)]])
    return found[:count].reshape(shape)


def _words(data: bytes | memoryview, count: int, modulus: int) -> RingArray:
    words = unpack_bits(data, count, modulus.bit_length())
    if words.max(initial=0) >= modulus:
        raise FrameError("powers of rows: a word exceeds the prime; the frame is corrupt")
    return words


def _sum(own: bytes, theirs: bytes | memoryview, count: int, modulus: int) -> RingArray:
    both = (_words(part, count, modulus) for part in (own, theirs))
    total: RingArray = sum(both, np.zeros(count, np.uint64)) % np.uint64(modulus)
    return total
