"""The cache of a next conversation made ahead of it: what is made, that it serves one, once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.models.generator_loading import load_generator
from hybrid.operators import slot_matrices
from hybrid.planning import ahead as ahead_module
from hybrid.planning.ahead import AHEAD, AheadPlan
from hybrid.planning.generation import CACHE, CONVERSATION, plan_generation
from hybrid.reports.amounts import total
from hybrid.reports.generation_costs import Ledger, whole_session
from hybrid.reports.generation_plan import generation_plan_to_dict
from hybrid.reports.generation_waits import first_token_waits
from hybrid.runtime.ahead import Stock, next_piece
from hybrid.runtime.generating import GenerationSession
from mpc_nonlinear.blocks.cached_products import GrowingProduct
from mpc_nonlinear.cost import Demand, total_without_work
from tests.generation_setup import both_ends, generation_config
from tests.test_generation_ahead import FIRST, SECOND, Watched, prepare
from transport.errors import UsageError
from transport.traffic import NO_TRAFFIC

EXACT = {"protocols": {"cached_attention": "matrix_correlations"}}
KINDS = {"slots": {}, "words": EXACT}


@pytest.fixture
def small_frames(monkeypatch):
    """Products in slots in many frames, as those of many layers are."""
    whole = slot_matrices._groups

    def groups(sizes, parameters):
        places = [p for group in whole(sizes, parameters) for p in group.places]
        parts = [places[i : i + 5] for i in range(0, len(places), 5)]
        return [slot_matrices._group(part, sizes, parameters) for part in parts]

    monkeypatch.setattr(slot_matrices, "_groups", groups)


def planned(**settings):
    config = generation_config(**settings)
    return plan_generation(config, load_generator(config).public)


# -- what is declared ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_frames")
def test_pieces_and_what_is_left_are_the_whole(kind):
    plan = planned(**KINDS[kind])
    pieces, whole = plan.cache_pieces, plan.conversation_cost()
    assert len(pieces) == {"slots": 6, "words": 4}[kind]
    last = whole.traffic.sent_bytes
    for made in range(len(pieces) + 1):
        there = total_without_work(one.cost for one in pieces[:made])
        left = plan.conversation_cost(made)
        for name in ("client_payload_bytes", "server_payload_bytes"):
            both = getattr(there.traffic, name) + getattr(left.traffic, name)
            assert both == getattr(whole.traffic, name)
        both = there.failure_probability + left.failure_probability
        assert both == pytest.approx(whole.failure_probability)
        assert left.traffic.sent_bytes <= last
        last = left.traffic.sent_bytes
    # Turned keys are taken in two rounds, and the prefix of all layers is opened in one.
    assert left.traffic.rounds == 3
    assert left.traffic.sent_bytes < whole.traffic.sent_bytes / 50


def test_rounds_of_a_prefix_are_those_of_one_layer():
    whole = planned(ahead_tokens=0).conversation_cost().traffic
    assert whole.rounds == 5


def test_where_none_are_made(monkeypatch):
    """Nothing is asked for ahead, too much memory, a dealer: the plan says so."""
    assert AheadPlan(planned()).cache_pieces
    assert not AheadPlan(planned(ahead_tokens=0)).cache_pieces
    assert not AheadPlan(planned(dealer=True)).cache_pieces
    plan = planned()
    monkeypatch.setattr(ahead_module, "AHEAD_CACHE_BYTES", plan.masks_bytes())
    assert AheadPlan(plan).cache_pieces
    monkeypatch.setattr(ahead_module, "AHEAD_CACHE_BYTES", plan.masks_bytes() - 1)
    assert not AheadPlan(plan).cache_pieces
    assert generation_plan_to_dict(plan)["ahead"]["cache"]["pieces"] == 0
    assert 0 < plan.masks_bytes() < plan.cache_bytes()


@pytest.fixture(scope="module")
def several():
    """A plan of several pieces."""
    return planned(ahead_tokens=8, **EXACT)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_schedule_ends_and_has_all_once(several, data):
    """From whatever stock, open or not: every piece of the cache once, in order, then None."""
    ahead, plan = AheadPlan(several), several
    rows = [data.draw(st.integers(0, 40)) for _ in plan.batch]
    names = [operator.node.name for operator, _ in plan.batch]
    made, stock = data.draw(st.integers(0, len(plan.cache_pieces))), Demand()
    first, goes_on = made, data.draw(st.booleans())
    order = []
    while piece := next_piece(ahead, Stock(rows, stock, made), 8, goes_on=goes_on):
        stock += piece.correlations
        for operator, _ in piece.operators:
            rows[names.index(operator.node.name)] += plan.batch_rows
        if piece.cache:
            assert piece.cache == (made, plan.cache_pieces[made])
            made += 1
        order.append("cache" if piece.cache else "rows" if piece.operators else "correlations")
        assert len(order) < 100
    assert made == len(plan.cache_pieces)
    count = made - first
    if not goes_on:
        assert order[:count] == ["cache"] * count
    elif count and "correlations" in order:
        assert order.index("cache") > max(i for i, o in enumerate(order) if o == "correlations")


# -- sessions -----------------------------------------------------------------------------------


def kinds(client):
    return [one.kind for one in client._session.shared]


def until_cache(client, pieces):
    """Prepare until so many pieces of the next cache are there."""
    while client._session._cache_made < pieces:
        assert client.ahead()


def plain_next(config, ids, count):
    """The plain model's answer."""
    model, read, found = load_generator(config), [*ids], []
    for _ in range(count):
        found.append(int(model.plain_logits(np.array(read, np.int64))[-1].argmax()))
        read.append(found[-1])
    return found


def tokens_of(client, ids, count, **given):
    return [found.token for found in client.answer(ids, count, fresh=True, **given)]


def charged_whole(watched):
    """Every byte, round and second belongs to a pass or is left over."""
    for record in watched.records.values():
        ledger = Ledger(watched.plan, record)
        lines = [line for i in range(len(record.passes)) for line in ledger.lines(i)]
        found = total(line.measured for line in lines) + ledger.left()
        whole = whole_session(record)
        assert found.client_sent_bytes == pytest.approx(whole.client_sent_bytes)
        assert found.server_sent_bytes == pytest.approx(whole.server_sent_bytes)
        assert found.rounds == pytest.approx(whole.rounds)
        declared = [line for line in lines if line.is_share]
        seen = total(line.measured for line in declared).client_sent_bytes
        assert total(x.declared for x in declared).client_sent_bytes == pytest.approx(seen)


@pytest.mark.long
@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_conversation_makes_no_correlations_of_its_cache(monkeypatch, kind):
    found = []

    def ask(client):
        found.append(tokens_of(client, FIRST, 2))
        prepare(client)
        assert not client._session._state.caches.keys() & client._session._state.to_come.keys()
        found.append(tokens_of(client, SECOND, 2))
        assert client._session._state.to_come == {}

    watched = Watched(monkeypatch, ask, ahead_tokens=4, **KINDS[kind])
    watched.as_declared()
    plan, record = watched.plan, watched.records["client"]
    count = len(plan.cache_pieces)
    before, after = (one for one in record.shared if one.kind == CONVERSATION)
    made = [one for one in record.shared if one.kind == CACHE]
    assert [one.pieces for one in made] == list(range(count))
    assert all(one.is_ahead and one.passes == 2 for one in made)
    assert (before.pieces, after.pieces) == (0, count)
    # The prefix under its masks, of all layers at once, is all that is left, and four transfers.
    transfers, *steps = (step.traffic for step in after.steps)
    assert sum(steps, NO_TRAFFIC) == plan.conversation_cost(count).traffic
    assert sum(one.rounds for one in steps) == 3
    sent = sum(step.traffic.sent_bytes for step in before.steps)
    assert transfers.sent_bytes + sum(one.sent_bytes for one in steps) < sent / 50
    waits = [first_token_waits(record, first) for first in (0, 2)]
    assert waits[0]["ahead"] == 0
    assert waits[1]["ahead"] >= sum(one.seconds for one in made)
    charged_whole(watched)
    expected = [plain_next(watched.config, ids, 2) for ids in (FIRST, SECOND)]
    assert found == expected


@pytest.mark.long
@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_that_begins_early_makes_the_rest(monkeypatch, kind):
    """Before the first prompt, and in between; what is never used is counted as well."""
    found = []

    def ask(client):
        until_cache(client, 1)
        found.append(tokens_of(client, FIRST, 1))
        until_cache(client, 2)
        found.append(tokens_of(client, SECOND, 2))
        until_cache(client, 1)

    watched = Watched(monkeypatch, ask, ahead_tokens=4, **KINDS[kind])
    watched.as_declared()
    record = watched.records["client"]
    begun = [one.pieces for one in record.shared if one.kind == CONVERSATION]
    assert begun == [1, 2]
    assert [one.pieces for one in record.shared if one.kind == CACHE] == [0, 0, 1, 0]
    assert found == [plain_next(watched.config, FIRST, 1), plain_next(watched.config, SECOND, 2)]
    charged_whole(watched)
    assert Ledger(watched.plan, record).left().client_sent_bytes > 0


@pytest.mark.long
@pytest.mark.usefixtures("small_frames")
def test_masks_serve_one_conversation(monkeypatch):
    """Of all conversations, no mask of either party is another's."""
    drawn = []
    begin = GrowingProduct.__init__

    def beginning(product, layer, sizes, masks, party, *modulus):
        drawn.append((layer, party, [np.copy(part) for part in masks]))
        begin(product, layer, sizes, masks, party, *modulus)

    def ask(client):
        prepare(client)
        for ids in (FIRST, SECOND):
            tokens_of(client, ids, 1)
        prepare(client)
        tokens_of(client, FIRST, 1)

    monkeypatch.setattr(GrowingProduct, "__init__", beginning)
    Watched(monkeypatch, ask, ahead_tokens=2).as_declared()
    assert len(drawn) == 3 * 2 * 2 * 2
    words = np.concatenate([part[part > 0] for *_, masks in drawn for part in masks[:2]])
    assert len(np.unique(words)) == words.size


@pytest.mark.long
def test_nothing_is_left_of_a_conversation_that_did_not_begin(monkeypatch):
    """Burnt with the session, at both parties."""
    sessions = []
    begin = GenerationSession._begin

    def beginning(session):
        sessions.append(session)
        assert session._state.to_come
        begin(session)

    def stop(*_given):
        raise UsageError("broken")

    def ask(client):
        prepare(client)
        monkeypatch.setattr(GenerationSession, "_begin", beginning)
        # The first product of all, whose masks are gone by then.
        monkeypatch.setattr(GrowingProduct, "__init__", stop)
        tokens_of(client, FIRST, 1)

    config = generation_config(ahead_tokens=2)
    ends = both_ends(config, config, ask)
    assert [str(end) for end in ends] == ["broken", "broken"]
    assert len(sessions) == 2
    for session in sessions:
        assert (session._state.to_come, session._cache_made) == ({}, 0)
        assert not session._is_open


@pytest.mark.long
def test_conversations_that_share_passes_come_first(monkeypatch):
    """None of them goes on, so the next pass is sure to begin others."""
    found = []

    def ask(client):
        for _ in range(2):
            given = client.answer(FIRST, 1, fresh=True, beside=[SECOND])
            found.append([token for one in given for token in one.tokens])
            assert client.ahead()
            assert kinds(client)[-1] == CACHE
            prepare(client)

    watched = Watched(monkeypatch, ask, ahead_tokens=2, model={"batch": 2})
    watched.as_declared()
    plain = [plain_next(watched.config, ids, 1)[0] for ids in (FIRST, SECOND)]
    assert found == [plain, plain]
    begun = [one.pieces for one in watched.records["client"].shared if one.kind == CONVERSATION]
    assert begun == [0, len(watched.plan.cache_pieces)]


@pytest.mark.long
def test_no_cache_is_made_where_nothing_is_made_ahead():
    def ask(client):
        prepare(client)
        tokens_of(client, FIRST, 1)
        prepare(client)
        assert client._session._state.to_come == {}
        assert not {CACHE, AHEAD} & set(kinds(client))

    config = generation_config(ahead_tokens=0, tokens_at_once=1)
    assert both_ends(config, config, ask) == (None, None)
