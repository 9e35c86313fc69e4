"""The offline phase of a request before there is a text."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.config.loading import load_config
from hybrid.models.loading import load_model, text_encoder
from hybrid.planning.catalog import load_catalog
from hybrid.planning.plan import OFFLINE
from hybrid.planning.schedule import named_schedule
from hybrid.runtime.parties import ClientSession, ServerSession
from tests.tiny_model import write_tiny_config
from transport.errors import FrameError
from transport.local import run_both
from transport.traffic import Party

TEXTS = [np.array([2, 4, 5, 3]), np.array([2, 9, 3])]


def sessions(tmp_path, client):
    """Both parties; `client` drives the client's session after set-up."""
    config = load_config(write_tiny_config(tmp_path, correlations="softspoken"))
    model, catalog = load_model(config), load_catalog()
    schedule = named_schedule(config, model.public.graph.nodes, catalog)

    def party(channel):
        if channel.party is Party.SERVER:
            server = ServerSession(config, catalog, channel)
            server.setup(model, schedule)
            return list(server.serve())
        session = ClientSession(config, catalog, channel)
        session.setup(text_encoder(config))
        return client(session)

    asked, served, _ = run_both(party)
    return asked, served, model


def test_a_prepared_request_only_goes_online(tmp_path):
    def client(session):
        found = []
        for index, ids in enumerate(TEXTS):
            if index == 0:
                session.prepare()
                session.prepare()
            before = session.channel.total
            answer = session.query([ids])
            found.append((answer, session.channel.total.sent_bytes - before.sent_bytes))
        session.prepare()
        session.finish()
        return found

    asked, served, model = sessions(tmp_path, client)
    assert len(served) == 2
    sent = []
    for (answer, seen), ids in zip(asked, TEXTS, strict=True):
        assert np.abs(answer.values[0] - model.public.head.finished(model.plain(ids))).max() < 5e-3
        steps = answer.result.steps
        offline = sum(s.traffic.sent_bytes for s in steps if s.phase == OFFLINE)
        online = sum(s.traffic.sent_bytes for s in steps if s.phase != OFFLINE)
        assert offline > 0
        sent.append((seen, offline, online))
    # The first request's offline bytes moved before it was asked, the second's did not.
    word = sent[0][0] - sent[0][2]
    assert 0 < word < 100
    assert sent[1][0] == word + sent[1][1] + sent[1][2]
    assert sent[0][1:] == sent[1][1:]


def test_preparing_twice_is_refused_by_the_server(tmp_path):
    def client(session):
        session.prepare()
        session._ahead = None
        session.channel.send(b"\x02")
        session.channel.recv(1)

    with pytest.raises(FrameError, match="unknown request word"):
        sessions(tmp_path, client)
