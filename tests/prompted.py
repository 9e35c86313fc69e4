"""A session that answers prompts, both parties and a dealer as threads of this process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hybrid.models.generator_loading import load_generator
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient
from mpc_nonlinear.correlations import run_dealer
from tests.generation_setup import generation_config
from tests.waiting import GUARD_S
from transport.errors import PeerLostError
from transport.local import memory_pair


def config_of(family, *, embedding="public_table", batch=1, **generation):
    """A small trained decoder; everything that takes ciphertexts is dealt instead."""
    settings = {"positions": 64, "max_new_tokens": 8, "stop_early": False} | generation
    model = {"embedding": embedding, "batch": batch}
    return generation_config(family, dealer=True, model=model, **settings)


class KeepingClient(AskingClient):
    """Keeps its shares of the logits of every pass, which a client's records do not hold."""

    def __init__(self, config):
        super().__init__(config, keep_shares=True)
        self.shares = []

    def answer(self, *asked, **how):
        for found in super().answer(*asked, **how):
            self.shares.append(found.record.outputs["logits"].reshape(-1))
            yield found


class Opened:
    """What both parties found."""

    def __init__(self, client, server, shares, plan):
        self.client, self.server, self.plan = client, server, plan
        self.logits = [(a + b).view(np.int64) / 2.0**16 for a, b in zip(*shares, strict=True)]


def converse(config, ask, watch=None):
    """`ask(client)`, a `KeepingClient` with a session, and what came of the session.

    watch: called with the channels, the client's first, before anything is sent.
    """
    server = AnsweringServer(config)
    channels = memory_pair(timeout_s=GUARD_S)
    client_dealer, dealer_client = memory_pair(timeout_s=GUARD_S)
    dealer_server, server_dealer = memory_pair(timeout_s=GUARD_S)
    dealing = threading.Thread(target=run_dealer, args=(dealer_client, dealer_server))
    dealing.start()
    links = client_dealer, server_dealer
    if watch is not None:
        watch(*channels)

    def serve():
        try:
            return server.serve_session(channels[1], links[1], keep_shares=True)
        finally:
            channels[1].close()

    def query():
        try:
            client = KeepingClient(config)
            client.open(channels[0], links[0])
            found = ask(client)
            return found, client.close(), client.shares
        finally:
            channels[0].close()

    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            asking, serving = pool.submit(query), pool.submit(serve)
            failures = [f.exception() for f in (asking, serving)]
            for failure in sorted(filter(None, failures), key=_is_consequence):
                raise failure
            found, record, mine = asking.result()
            served, theirs = serving.result()
    finally:
        for link in links:
            link.close()
        dealing.join(timeout=GUARD_S)
    return found, Opened(record, served, (mine, theirs), server.plan)


def _is_consequence(failure):
    return isinstance(failure, PeerLostError)


def plain(config):
    """The decoder that the server has."""
    return load_generator(config)
