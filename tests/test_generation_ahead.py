"""Correlations made ahead of need: what is made, who takes it, and that it is taken once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.models.generator_loading import load_generator
from hybrid.operators.slot_triples import triples_cost
from hybrid.planning import ahead as ahead_module
from hybrid.planning import risk
from hybrid.planning.ahead import AHEAD, AheadPlan, making, most
from hybrid.planning.generation import CACHE, CONVERSATION, plan_generation
from hybrid.planning.plan import OFFLINE, offline_name
from hybrid.reports.amounts import total
from hybrid.reports.generation_costs import Ledger, differing_steps, whole_session
from hybrid.reports.generation_stock import StockReplay
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient
from hybrid.runtime.generation_words import Word
from mpc_nonlinear.correlations.preprocessing import Prepared, product_kind, triple_kind
from mpc_nonlinear.cost import Demand
from tests.generation_setup import both_ends, generation_config
from transport.errors import FrameError
from transport.traffic import NO_TRAFFIC, Party

FIRST, SECOND = np.array([5, 6, 7, 8, 9]), np.array([11, 12, 13, 14])
KINDS = [triple_kind(1), triple_kind(2), product_kind(64, Party.CLIENT)]
demands = st.lists(st.integers(0, 5), min_size=3, max_size=3).map(
    lambda counts: sum((Demand.of(k, n) for k, n in zip(KINDS, counts, strict=True)), Demand())
)


@given(demands, demands)
def test_what_is_left_of_a_demand_and_the_most_of_two(needed, stock):
    lacks, both = needed - stock, most(needed, stock)
    for kind in KINDS:
        need, have, less, more = (dict(d.counts).get(kind, 0) for d in (needed, stock, lacks, both))
        assert less == max(0, need - have)
        assert more == max(need, have)
    assert all(count for _, count in lacks.counts)


@pytest.fixture(scope="module")
def plan():
    config = generation_config(ahead_tokens=12, tokens_at_once=4)
    return plan_generation(config, load_generator(config).public)


@pytest.fixture(params=[1, ahead_module.PIECE_OTS], ids=["small", "usual"])
def sizes(request, monkeypatch):
    """Of pieces: of one row, or of some rows that take little."""
    monkeypatch.setattr(ahead_module, "PIECE_OTS", request.param)
    return request.param


def pieces(ahead, past):
    stock, found = Demand(), []
    while (piece := ahead.piece(past, stock)).counts:
        found.append(piece)
        stock += piece
    return found, stock


@pytest.mark.parametrize("past", [0, 7, 60, 64])
def test_pieces_add_up_to_what_passes_may_take(plan, past, sizes):
    ahead = AheadPlan(plan)
    found, stock = pieces(ahead, past)
    assert len(found) == (3 if sizes == 1 else 1)
    assert stock == ahead.wanted(past)
    assert ahead.piece(past, stock) == Demand()
    # A prompt of all rows, in a new conversation or this one, and as many tokens.
    places = [(8, 0), (1, 0)] + ([(min(12, 64 - past), past)] if 0 < past < 64 else [])
    for rows, place in places:
        needed = plan.of_pass(rows, place).cost.demand * (12 if rows == 1 else 1)
        assert needed - stock == Demand()
    # Less is there after a pass, and as much is made again.
    left = stock - plan.of_pass(1, 0).cost.demand
    assert ahead.piece(past, left) == stock - left


def test_no_tokens_no_pieces():
    config = generation_config(ahead_tokens=0)
    ahead = AheadPlan(plan_generation(config, load_generator(config).public))
    assert ahead.piece(0, Demand()) == Demand()


# -- sessions -----------------------------------------------------------------------------------


def hint_squares(plan, record):
    """Of all that a session made, used or not, by what its records say was made."""
    plans = [plan.of_pass(done.rows, done.past) for done in record.passes]
    found = sum(
        making(plan.source, drawn.needed).distance_squares
        for drawn in StockReplay(plan).passes(record, plans)
    )
    for one in record.shared:
        if one.kind == AHEAD:
            costs = [triples_cost(one.made)]
        elif one.kind == CACHE:
            costs = [plan.cache_pieces[one.pieces].cost]
        elif one.kind == CONVERSATION:
            costs = [plan.conversation_cost(one.pieces)]
        else:
            ran = {step.name for step in one.steps}
            batch = plan.batch if one.rows == plan.batch_rows else plan.first_batch
            costs = [cost for o, cost in batch if offline_name(o.node.name) in ran]
        found += sum(cost.distance_squares for cost in costs)
    return found


class Watched:
    """A conversation of two answers, prepared ahead in between, as both parties record it."""

    def __init__(self, monkeypatch, ask, **settings):
        self.config = generation_config(**{"tokens_at_once": 1, **settings})
        self.records, self.client = {}, None
        serve, close = AnsweringServer.serve_session, AskingClient.close

        def serving(server, *given):
            self.records["server"], shares = serve(server, *given)
            return self.records["server"], shares

        def closing(client):
            self.client = client
            self.records["client"] = close(client)
            return self.records["client"]

        monkeypatch.setattr(AnsweringServer, "serve_session", serving)
        monkeypatch.setattr(AskingClient, "close", closing)
        self.ends = both_ends(self.config, self.config, ask)
        self.plan = plan_generation(self.config, load_generator(self.config).public)

    def as_declared(self):
        assert self.ends == (None, None)
        for party, record in self.records.items():
            assert differing_steps(self.plan, record, party) == []
        client, server = self.records["client"], self.records["server"]
        assert client.total == server.total == client.setup + whole_session(client)
        assert client.failure_probability == server.failure_probability
        assert client.hint_distance == server.hint_distance
        squares = hint_squares(self.plan, client)
        assert client.hint_distance**2 == pytest.approx(squares, rel=1e-9, abs=0)


def prepare(client, most_pieces=10**9):
    made = 0
    while made < most_pieces and client.ahead():
        made += 1
    return made


def sent_offline(done):
    return sum(s.traffic.sent_bytes + s.traffic.rounds for s in done.steps if s.phase == OFFLINE)


@pytest.mark.long
def test_the_next_answer_needs_online_work_alone(monkeypatch):
    tokens = []

    def ask(client):
        tokens.append([n.token for n in client.answer(FIRST, 2, fresh=True)])
        assert prepare(client)
        assert not client.ahead()
        shared = len(client._session.shared)
        tokens.append([n.token for n in client.answer(SECOND, 3, fresh=False)])
        assert len(client._session.shared) == shared

    watched = Watched(monkeypatch, ask, ahead_tokens=8)
    watched.as_declared()
    passes = watched.records["client"].passes
    assert [(p.rows, p.past) for p in passes] == [(8, 0), (1, 8), (4, 9), (1, 13), (1, 14)]
    assert [bool(sent_offline(done)) for done in passes] == [True, True, False, False, False]
    # Right: the same tokens as without anything made ahead.
    plain = load_generator(watched.config)
    read = [*FIRST, *tokens[0][:-1], *SECOND, *tokens[1][:-1]]
    rows = plain.plain_logits(np.array(read, np.int64)).argmax(axis=1).tolist()
    assert tokens[0] == rows[4:6]
    assert tokens[1] == rows[9:]


@pytest.mark.long
@pytest.mark.parametrize("made", [3, 7])
def test_what_is_there_is_taken_and_the_rest_is_made(monkeypatch, made):
    """A prompt longer than what was prepared, in the midst of it, and behind another answer."""
    monkeypatch.setattr(ahead_module, "PIECE_OTS", 1)

    def ask(client):
        rows = len(client._session.plan.batch)
        list(client.answer(FIRST, 1, fresh=True))
        assert client._session.stock() == 24
        assert prepare(client, made) == made
        assert [one.kind for one in client._session.shared[-made:]] == [AHEAD] * made
        list(client.answer(np.arange(20, 31), 1, fresh=True))
        prepare(client)
        assert client._session.stock() >= 24
        assert sum(one.kind == "batch" for one in client._session.shared) == 1 + rows
        list(client.answer(SECOND, 2, fresh=True))

    watched = Watched(monkeypatch, ask, ahead_tokens=8)
    watched.as_declared()
    first, second, *third = watched.records["client"].passes
    assert 0 < sent_offline(second) < sent_offline(first) * 2
    # Its prompt fills a bucket of 8, for which there was enough; the next token had to be made.
    assert [bool(sent_offline(done)) for done in third] == [False, True]
    # Every byte, round and second belongs to a pass or is left over.
    for record in watched.records.values():
        ledger = Ledger(watched.plan, record)
        lines = [line for i in range(len(record.passes)) for line in ledger.lines(i)]
        spent, left = total(line.measured for line in lines), ledger.left()
        whole = whole_session(record)
        assert spent.client_sent_bytes + left.client_sent_bytes == pytest.approx(
            whole.client_sent_bytes
        )
        assert spent.rounds + left.rounds == pytest.approx(whole.rounds)
        assert min(left.client_sent_bytes, left.server_sent_bytes, left.seconds) > 0
        offline = [total(x.measured for x in ledger.lines(i) if x.is_offline) for i in range(4)]
        # What was made ahead is charged to those who took it.
        assert min(one.server_sent_bytes for one in offline) > 1000
        declared = total(line.declared for line in lines)
        assert declared.client_sent_bytes == pytest.approx(spent.client_sent_bytes)
        assert declared.rounds == pytest.approx(spent.rounds)


@pytest.mark.long
def test_nothing_is_handed_out_twice(monkeypatch):
    """Of every kind: what is taken is what was made, in that order, each instance once."""
    monkeypatch.setattr(ahead_module, "PIECE_OTS", 1)
    made, taken = {}, {}
    store, make, take = Prepared.store, Prepared._make, Prepared._take

    def keep(found, prepared, kind, arrays):
        # What one protocol among several reserves has left the stock before.
        if type(prepared) is Prepared and len(arrays[0]):
            parts = found.setdefault((prepared._source.party, kind), [])
            parts.append(np.copy(arrays[0]).reshape(len(arrays[0]), -1))

    def storing(self, kind, arrays):
        keep(made, self, kind, arrays)
        store(self, kind, arrays)

    def making(self, kind, count):
        found = make(self, kind, count)
        keep(made, self, kind, found)
        return found

    def taking(self, kind, count):
        found = take(self, kind, count)
        keep(taken, self, kind, found)
        return found

    def ask(client):
        list(client.answer(FIRST, 1, fresh=True))
        prepare(client, 5)
        list(client.answer(SECOND, 2, fresh=False))

    monkeypatch.setattr(Prepared, "store", storing)
    monkeypatch.setattr(Prepared, "_make", making)
    monkeypatch.setattr(Prepared, "_take", taking)
    Watched(monkeypatch, ask, ahead_tokens=8).as_declared()
    assert {kind.form.is_stored for _, kind in taken} == {False, True}
    for key, parts in taken.items():
        here, out = np.concatenate(made[key]), np.concatenate(parts)
        assert len(out) <= len(here)
        assert (out == here[: len(out)]).all(), key


@pytest.mark.long
def test_more_than_the_schedule_is_refused_by_the_server():
    """A client that does not stop cannot fill the server's memory."""

    def ask(client):
        prepare(client)
        client._session._say(Word.AHEAD)
        client._channel.recv(1)

    config = generation_config(ahead_tokens=2)
    server, _ = both_ends(config, config, ask)
    assert isinstance(server, FrameError)
    assert "asks for what cannot be" in str(server)


@pytest.mark.long
def test_what_may_not_fail_more_is_not_made(monkeypatch):
    def ask(client):
        list(client.answer(FIRST, 1, fresh=True))
        monkeypatch.setattr(risk, "MAX_DISTANCE", client._session.risk.distance)
        assert not client.ahead()

    config = generation_config(ahead_tokens=2)
    assert both_ends(config, config, ask) == (None, None)


@pytest.mark.long
def test_the_stock_is_empty_where_nothing_is_made_ahead():
    def ask(client):
        list(client.answer(FIRST, 2, fresh=True))
        assert client._session._prepared() == Demand()
        assert [one.traffic for one in client._passes[1].steps[:1]] != [NO_TRAFFIC]

    config = generation_config(ahead_tokens=0, tokens_at_once=1)
    assert both_ends(config, config, ask) == (None, None)


@pytest.mark.long
def test_tokens_have_their_correlations_made_together(monkeypatch):
    """Three at a time, whole ciphertexts for all; what an answer leaves serves the next."""

    def ask(client):
        list(client.answer(FIRST, 6, fresh=True))
        list(client.answer(SECOND, 2, fresh=True))

    watched = Watched(monkeypatch, ask, tokens_at_once=3, ahead_tokens=0)
    watched.as_declared()
    record = watched.records["client"]
    made = [(one.passes, one.is_ahead) for one in record.shared if one.kind == AHEAD]
    # Behind the prompt, and three tokens later; the second answer's prompt has taken of the rest.
    assert made[:2] == [(1, False), (4, False)]
    assert len(made) == 3
    assert [bool(sent_offline(done)) for done in record.passes[1:6]] == [False] * 5
    ledger = Ledger(watched.plan, record)
    lines = [line for i in range(len(record.passes)) for line in ledger.lines(i)]
    spent = total(line.measured for line in lines) + ledger.left()
    assert spent.client_sent_bytes == pytest.approx(whole_session(record).client_sent_bytes)
    # Together they take less than each by itself.
    one = watched.plan.of_pass(1, 8)
    alone = watched.plan.offline_traffic(one).sent_bytes
    each = total(x.measured for x in ledger.lines(2) if x.is_offline and not x.is_share)
    assert 0 < each.client_sent_bytes + each.server_sent_bytes < alone


@pytest.mark.parametrize(("rows", "past", "count"), [(1, 0, 4), (1, 62, 2), (1, 63, 1), (2, 0, 0)])
def test_what_is_made_at_once_ends_with_the_positions(plan, rows, past, count):
    ahead = AheadPlan(plan)
    wanted = sum((plan.of_pass(1, past + i).cost.demand for i in range(count)), Demand())
    assert ahead.at_once(rows, past, Demand()) == wanted
    assert ahead.at_once(rows, past, wanted) == Demand()


def test_what_is_made_at_once_is_found_once(plan, monkeypatch):
    ahead, of_pass, asked = AheadPlan(plan), plan.of_pass, []
    monkeypatch.setattr(plan, "of_pass", lambda *place: (asked.append(place), of_pass(*place))[1])
    first = ahead.at_once(1, 0, Demand())
    assert (1, 0) in asked
    asked.clear()
    assert ahead.at_once(1, 0, Demand()) == first
    assert not asked
    # Another place or another stock is another question.
    assert ahead.at_once(1, 62, Demand()) != first
    assert ahead.at_once(1, 0, first) == Demand()
    assert ahead.at_once(1, 0, Demand()) == first
