"""Two clocks: what overlaps costs nothing extra, what waits does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.computing import (
    NO_WORK,
    Clocks,
    Message,
    Together,
    Trip,
    Units,
    Work,
    add_units,
    units,
)
from transport.traffic import Party


@dataclass(frozen=True)
class Flat:
    """One second a unit."""

    latency_s: float = 0.0
    bytes_per_s: float = float("inf")

    def seconds(self, part: Units) -> float:
        return sum(count for _, count in part)


def trip(frames=1, *, stages=1, up_bytes=0, down_bytes=0, **counts: float) -> Trip:
    names = ("question", "own", "arriving", "between", "leaving", "finish", "after")
    parts = [units(step=counts.get(name, 0.0)) for name in names]
    return Trip(*parts, frames, frames, up_bytes, down_bytes, stages)


def test_one_frame_is_a_sum():
    clocks = Work(
        (trip(question=1, own=0.5, arriving=2, between=3, leaving=4, finish=5, after=6),)
    ).advance(Clocks(), Flat(latency_s=10))
    # The server's own encoding hides behind the client's and the wire.
    assert clocks == Clocks(1 + 10 + 2 + 3 + 4 + 10 + 5, 1 + 10 + 2 + 3 + 4 + 6)


def test_streams_pipeline():
    whole = trip(8, question=8, arriving=8, leaving=8, finish=8)
    assert Work((whole,)).advance(Clocks(), Flat()).client == 8 + 1 + 8 + 1
    stream = trip(8, stages=8, question=8, arriving=8, leaving=8, finish=8)
    # The server needs two a frame; its first arrives after one, the client's last takes one.
    assert Work((stream,)).advance(Clocks(), Flat()).client == 1 + 16 + 1


def test_results_of_a_stage_wait_for_all_of_its_question():
    halves = trip(4, stages=2, question=4, leaving=4)
    # Two frames come in 2; their two results leave by 4, the others, which wait until 4, by 6.
    assert Work((halves,)).advance(Clocks(), Flat()).client == 2 + 2 + 2
    whole = trip(4, stages=1, question=4, leaving=4)
    assert Work((whole,)).advance(Clocks(), Flat()).client == 4 + 4


def test_streamed_messages_hide_behind_work_or_hide_it():
    for made, size, longest in ((9, 30, 9), (2, 30, 3)):
        part = Together(units(a=made), 1, size, streams=True)
        work = Work((part,)) + Work.together(units(b=1))
        assert work.advance(Clocks(), Flat(2, 10)).client == longest + 2 + 1
        assert len(work.parts) == 2
        assert (Work((part,)) * 2).parts == (Together(units(a=2 * made), 2, 2 * size, True),)


def test_the_wire_is_a_stage():
    one = trip(4, stages=4, question=4, leaving=4, up_bytes=40, down_bytes=40)
    assert Work((one,)).advance(Clocks(), Flat(bytes_per_s=5)).client == 1 + 4 * 2 + 1 + 2


def test_what_a_party_still_does_shows_where_the_other_waits():
    late = Work((Message(Party.CLIENT, 0, units(a=1), units(a=9)),))
    clocks = late.advance(Clocks(), Flat())
    assert clocks == Clocks(1, 10)
    assert Work.together(units(a=2), 1).advance(clocks, Flat()) == Clocks(12, 12)
    assert Work.together(units(a=2)).advance(clocks, Flat()) == Clocks(3, 12)


def test_rounds_and_bytes_of_steps_together():
    work = Work.together(units(a=1), 3, 100)
    assert work.advance(Clocks(), Flat(2, 10)) == Clocks(1 + 6 + 10, 1 + 6 + 10)


@given(st.integers(0, 5), st.integers(0, 5))
def test_algebra(n, m):
    one = Work.together(units(a=1, b=2), 1, 7)
    assert one * n + one * m == one * (n + m)
    mixed = one + Work((trip(question=1),)) + one
    assert mixed * n + mixed * m == mixed * (n + m)
    assert mixed + NO_WORK == NO_WORK + mixed == mixed
    assert dict(mixed.counted()) == {"a": 2, "b": 4, "step": 1}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=4))
def test_units_add_up(parts):
    total = add_units(*(units(part) for part in parts))
    assert dict(total) == {k: s for k in "abc" if (s := sum(p.get(k, 0) for p in parts))}
    assert list(total) == sorted(total)


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=2),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_later_clocks_never_end_earlier(clocks, frames, stages):
    """The search of schedules relies on it."""
    parts = (
        trip(frames, stages=stages, question=3, own=1, arriving=2, leaving=4, finish=1, after=2),
        Together(units(a=1), 2, 3),
        Message(Party.SERVER, 5, units(a=1), units(b=1)),
    )
    first, second = (Clocks(*pair) for pair in clocks)
    later = Clocks(max(first.client, second.client), max(first.server, second.server))
    for part in parts:
        early, late = (part.advance(c, Flat(0.5, 10)) for c in (first, later))
        assert early.client <= late.client + 1e-9
        assert early.server <= late.server + 1e-9


def test_shifting_both_clocks_shifts_both_results():
    part = trip(3, question=3, own=1, arriving=2, leaving=4, finish=1, after=2)
    base, moved = (part.advance(Clocks(x, x + 1), Flat()) for x in (0.0, 5.0))
    assert moved.client == pytest.approx(base.client + 5)
    assert moved.server == pytest.approx(base.server + 5)
