"""Powers of numbers shared modulo a prime, by cells: polynomials, values, masks, cost, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks import row_powers
from mpc_nonlinear.blocks.power_cells import DEGREE, PowerCells, continued_power
from mpc_nonlinear.blocks.row_powers import opened_powers, opened_powers_cost
from tests.prime_triples import T, run_products
from transport.errors import FrameError, UsageError
from transport.traffic import Party

RANGES = [(-0.5, 2.0**40, 2.0**43), (-0.5, 2.0**31, 2.0**43), (-1.0, 5000.0, 9e6), (-0.7, 1e3, 1e3)]


def cells(power, low, high):
    """With results of up to 2^30 in the range."""
    return PowerCells(power, low, high, 2.0**30 * low**-power, T)


def residues(rng, *shape):
    return rng.integers(0, T, shape, dtype=np.uint64)


def by_cells(powers, s, first=None, mask=None, compute=opened_powers):
    """Of a run of two parties; the client's share and the mask as given, or drawn."""
    rng, t = np.random.default_rng(5), np.uint64(T)
    s = s.astype(np.uint64)
    own = residues(rng, *s.shape) if first is None else first
    pairs = own, (s + t - own) % t
    masks = residues(rng, 2, s.size) if mask is None else mask

    def run(session, _):
        return compute(pairs[session.party], masks[session.party], powers, session)

    client, server = run_products(run, opened_powers_cost(s.size, powers), s)
    assert np.array_equal(client, server)
    found = (client + masks[0] + masks[1]) % t
    return np.where(found > t // 2, found.astype(np.int64) - T, found.astype(np.int64))


# -- what is public ------------------------------------------------------------------------


@pytest.mark.parametrize("power,low,high", RANGES)
def test_windows_cover_the_range_and_overlap(power, low, high):
    powers = cells(power, low, high)
    windows = powers.windows
    assert windows[0].end == high and windows[-1].start == low
    for window, after in zip(windows, (*windows[1:], None), strict=True):
        assert window.size * window.cells >= T
        assert window.end * window.factor < T - window.size
        # No cell is longer than about half of the numbers that it is for.
        assert window.size <= 0.5201 * window.start * window.factor
        if after is not None:
            assert after.end >= window.start + window.size / window.factor
            assert (window.copies, after.copies) == (1 if window is windows[0] else 2, 2)
    assert windows[-1].residues == DEGREE + 1
    assert powers.error < (2.0**-10 if power > -1 else 2.0**-9)


@pytest.mark.parametrize("octaves,windows", [(4, 1), (6, 1), (8, 2), (12, 3)])
def test_more_octaves_take_more_windows(octaves, windows):
    powers = cells(-0.5, 2.0 ** (43 - octaves), 2.0**43)
    assert len(powers.windows) == windows
    cost = opened_powers_cost(1, powers)
    assert cost.traffic.rounds == 3 and cost.failure_probability == 0
    assert cost.traffic.sent_bytes < (0, 6e3, 9e3, 15e3)[windows]


def test_powers_go_on_below_their_range():
    s = np.array([0.0, 0.5, 0.999999, 1.0, 3.0])
    got = continued_power(s, -0.5, 1.0)
    assert got[0] == pytest.approx(1 + 1 / 2 + 3 / 8 + 5 / 16)
    assert got[1:] == pytest.approx([1.3828125, 1, 1, 3**-0.5], 1e-6)
    assert cells(-0.5, 4.0, 100.0).below == got[0]


def test_what_cannot_be_is_refused():
    for power, low, high in [(0.5, 1, 2), (-1, 0.5, 2), (-1, 3, 2), (-1, 3, T)]:
        with pytest.raises(UsageError, match="power cells: power"):
            PowerCells(power, low, high, 1.0, T)
    with pytest.raises(UsageError, match="exceed a quarter"):
        PowerCells(-0.5, 4.0, 8.0, T / 4, T)
    for low, high in [(1.0, 2.0**43), (1e9, T - 1)]:
        with pytest.raises(UsageError, match="the largest must stay below the prime"):
            PowerCells(-0.5, low, high, 2.0**20, T).windows  # noqa: B018


# -- values --------------------------------------------------------------------------------


@pytest.mark.parametrize("power,low,high", RANGES)
def test_values_are_as_near_as_declared_everywhere(power, low, high):
    powers, rng = cells(power, low, high), np.random.default_rng(1)
    ends = [end for w in powers.windows for end in (w.start, w.end, w.start + w.size / w.factor)]
    near = np.array(ends)[:, None] + [-3, -1, 0, 1, 3]
    s = np.concatenate([np.geomspace(low, high, 2000), near.reshape(-1)])
    s = np.floor(np.clip(np.concatenate([s, rng.uniform(low, high, 500)]), np.ceil(low), high))
    away = np.abs(by_cells(powers, s) / powers(s) - 1)
    assert away.max() <= powers.error
    # The bound says something.
    assert away.max() > powers.error / 8


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(RANGES), st.sampled_from([0, 1, T // 64, T // 64 + 1, T // 2, T - 1]))
def test_any_share_of_the_client_will_do(found, share):
    power, low, high = found
    powers = cells(power, low, high)
    s = np.floor(np.geomspace(np.ceil(low), high, 50))
    first = np.full(s.size, share, np.uint64)
    assert np.abs(by_cells(powers, s, first) / powers(s) - 1).max() <= powers.error


def test_below_the_range_polynomials_go_on():
    powers = cells(-0.5, 2.0**30, 2.0**40)
    s = np.floor(np.linspace(0, 2.0**30, 300))
    away = np.abs(by_cells(powers, s) - powers(s)).max() / powers(np.float64(2.0**30))
    assert away < 2 * powers.error


# -- messages ------------------------------------------------------------------------------


def sent_by(session, sent):
    channel, send = session.channel, session.channel.send
    channel.send = lambda payload: (sent.append(bytes(payload)), send(payload))[1]


def test_messages_differ_for_the_same_shares_and_masks():
    powers, sent = cells(-0.5, 2.0**33, 2.0**43), {party: [] for party in Party}
    s, first = np.full(40, 2.0**40), np.zeros(40, np.uint64)
    # Both openings sum masks: with fixed ones these alone are the same but for their error.
    mask = np.zeros((2, 40), np.uint64)

    def watched(own, masks, powers, session):
        sent_by(session, sent[session.party])
        found = opened_powers(own, masks, powers, session)
        assert not session.prepared.stock().counts
        return found

    for _ in range(2):
        by_cells(powers, s, first, mask, watched)
    question, answer, again, another = (
        *sent[Party.CLIENT][:1],
        sent[Party.SERVER][0],
        sent[Party.CLIENT][2],
        sent[Party.SERVER][1],
    )
    for one, other in ((question, again), (answer, another)):
        a, b = (np.frombuffer(data, np.uint8) for data in (one, other))
        assert len(a) == len(b)
        for data in (a, b, a ^ b):
            bits = np.unpackbits(data)
            # Residues are uniform modulo a prime just below 2^44.
            assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


def test_what_the_client_reads_says_nothing_of_the_number(monkeypatch):
    # Of one number with the same shares, 400 times.
    powers, seen = cells(-0.5, 2.0**33, 2.0**43), []
    unlocked = row_powers._unlocked

    def reading(entries, powers):
        found = unlocked(entries, powers)
        seen.append((entries, found))
        return found

    monkeypatch.setattr(row_powers, "_unlocked", reading)
    by_cells(powers, np.full(400, 2.0**34), np.zeros(400, np.uint64))
    (((first, second), coefficients),) = seen
    # Which of the next window's entries is read.
    assert 140 < first[:, -1].sum() < 260
    # What is read of both windows, and the entry that is not read beside the one that is.
    copies = second.reshape(400, 2, -1)
    away = (copies[:, 0] + np.uint64(T) - copies[:, 1]) % np.uint64(T)
    for numbers in (coefficients.reshape(400, -1), first[:, :-1], second, away):
        assert len(np.unique(numbers)) == numbers.size
        assert (np.abs((numbers > T // 2).mean(axis=0) - 0.5) < 0.15).all()


@pytest.mark.parametrize("party", list(Party))
def test_words_above_the_prime_are_refused(party):
    powers = cells(-0.5, 2.0**40, 2.0**43)

    def compute(own, mask, powers, session):
        if session.party is party:
            channel = session.channel
            channel.recv = lambda size: b"\xff" * size
            with pytest.raises(FrameError, match="a word exceeds the prime"):
                opened_powers(own, mask, powers, session)
        raise UsageError("as expected")

    with pytest.raises(UsageError, match="as expected"):
        by_cells(powers, np.full(3, 2.0**41), compute=compute)
