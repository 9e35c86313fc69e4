"""Protocols at once over one channel: results, rounds, bytes, and ends when one of them fails."""

from __future__ import annotations

import threading

import pytest

from tests.ot_sources import run_misbehaving
from transport.channel import Channel
from transport.errors import FrameError, PeerLostError, UsageError
from transport.frame import Frame, FrameKind
from transport.local import run_both
from transport.overlap import overlapped
from transport.traffic import Party, Traffic


def talk(turns, size, word):
    """Questions and answers, `turns` rounds, the client's first; what was heard."""

    def protocol(channel: Channel):
        heard = b""
        for turn in range(turns):
            channel.next_round()
            if (turn % 2 == 0) == (channel.party is Party.CLIENT):
                channel.send(word * size)
            else:
                heard += channel.recv(size)
        return heard

    return protocol


def swap(turns, size, word):
    def protocol(channel: Channel):
        return [channel.exchange(word * size, size) for _ in range(turns)]

    return protocol


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_longest_sets_the_rounds_and_everybody_hears_their_own(order):
    tasks = [talk(5, 3, b"a"), swap(4, 2, b"b"), talk(2, 7, b"c")]
    tasks = [tasks[i] for i in order]
    places = {i: order.index(i) for i in range(3)}

    def role(channel):
        channel.exchange(b"before")
        with channel.step("at once"):
            found = overlapped(channel, tasks)
        with channel.step("after"):
            channel.exchange(b"after")
        return found

    client, server, channel = run_both(role)
    assert client[places[0]] == b"aaa" * 2
    assert server[places[0]] == b"aaa" * 3
    assert client[places[1]] == server[places[1]] == [b"bb"] * 4
    assert (client[places[2]], server[places[2]]) == (b"c" * 7, b"c" * 7)
    assert channel.traffic("at once") == Traffic(9 + 8 + 7, 6 + 8 + 7, 3 + 4 + 1, 2 + 4 + 1, 5)
    assert channel.traffic("after") == Traffic(5, 5, 1, 1, 1)


def test_one_computes_at_a_time():
    busy, most = [], []

    def task(channel):
        for _ in range(20):
            busy.append(1)
            most.append(sum(busy))
            busy.pop()
            channel.exchange(b"x")

    def role(channel):
        return (
            overlapped(channel, [task] * 3)
            if channel.party is Party.CLIENT
            else overlapped(channel, [swap(20, 1, b"y")] * 3)
        )

    run_both(role)
    assert max(most) == 1


def test_a_failure_of_one_ends_all_and_leaves_no_thread():
    def failing(channel):
        channel.exchange(b"x")
        raise UsageError("wrong")

    def role(channel):
        if channel.party is Party.SERVER:
            return overlapped(channel, [swap(9, 1, b"x"), swap(1, 1, b"x")])
        return overlapped(channel, [swap(9, 1, b"x"), failing])

    before = threading.active_count()
    with pytest.raises(UsageError, match="wrong"):
        run_both(role)
    assert not [t for t in threading.enumerate() if t.name.startswith("branch")]
    assert threading.active_count() <= before + 2


def test_a_peer_that_leaves_ends_all():
    def role(channel):
        if channel.party is Party.SERVER:
            channel.recv()
            channel.close()
            return
        with pytest.raises(PeerLostError):
            overlapped(channel, [swap(2, 1, b"x"), swap(2, 1, b"y")])
        return

    def server_first(channel):
        if channel.party is Party.SERVER:
            frame = channel.next_frame()
            assert frame.branch == 1
            channel.close()
            return
        role(channel)

    run_misbehaving(server_first)
    assert not [t for t in threading.enumerate() if t.name.startswith("branch")]


@pytest.mark.parametrize("branch", [0, 3, 255])
def test_frames_of_nobody_are_refused(branch):
    def role(channel):
        if channel.party is Party.SERVER:
            channel.put_frames([Frame(FrameKind.DATA, 0, 1, 0, b"x", branch)])
            return
        with pytest.raises(FrameError, match="frame of protocol"):
            overlapped(channel, [swap(2, 1, b"x"), swap(2, 1, b"y")])

    run_misbehaving(role)


def test_frames_of_branches_are_refused_where_one_protocol_runs():
    def role(channel):
        if channel.party is Party.SERVER:
            channel.put_frames([Frame(FrameKind.DATA, 0, 1, 0, b"x", 1)])
            return
        with pytest.raises(FrameError, match="several protocols at once"):
            channel.recv()

    run_misbehaving(role)


def test_how_many_may_run():
    for count in (0, 9):
        with pytest.raises(FrameError, match="run 1 to 8"):
            run_both(lambda channel, n=count: overlapped(channel, [swap(1, 1, b"x")] * n))


def test_rounds_may_count_as_if_one_came_after_the_other():
    tasks = [talk(2, 3, b"a"), talk(2, 2, b"b"), swap(1, 1, b"c")]

    def role(channel):
        with channel.step("at once"):
            found = overlapped(channel, tasks, counts_each=True)
        with channel.step("after"):
            channel.exchange(b"after")
        return found

    client, server, channel = run_both(role)
    assert client == [b"aaa", b"bb", [b"c"]]
    assert server == [b"aaa", b"bb", [b"c"]]
    assert channel.traffic("at once") == Traffic(6, 6, 3, 3, 5)
    assert channel.traffic("after") == Traffic(5, 5, 1, 1, 1)


def test_in_a_flow_rounds_count_as_they_go():
    def role(channel):
        with channel.flow():
            return overlapped(channel, [swap(1, 1, b"x")], counts_each=True)

    with pytest.raises(FrameError, match="counted as they go"):
        run_both(role)


def test_a_protocol_that_asks_again_on_its_way_out_holds_nobody():
    def stubborn(channel):
        try:
            channel.recv(1)
        finally:
            channel.recv(1)

    def failing(channel):
        channel.exchange(b"x")
        raise UsageError("wrong")

    def role(channel):
        if channel.party is Party.SERVER:
            return overlapped(channel, [swap(9, 1, b"x"), swap(1, 1, b"x")])
        return overlapped(channel, [stubborn, failing])

    with pytest.raises(UsageError, match="wrong"):
        run_both(role)
    assert not [t for t in threading.enumerate() if t.name.startswith("branch")]
