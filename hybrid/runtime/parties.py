"""The two parties of a session: set-up, then one request after the other.

Set-up, in this order: handshake on version and config; the server's public description
(architecture, bounds, digest of the public embedding table); comparison of plan hashes; the
table, unless the client has it; the client's public keys; base OTs; the server's word that its
weights are encoded. Everything sent here is counted under the label "setup".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.schema import RunConfig
from hybrid.models.architecture import Architecture
from hybrid.models.folding import FloatArray, fold
from hybrid.models.public_table import receive_table, send_table
from hybrid.models.ranges import Bound, bounds_from_public, bounds_to_public
from hybrid.models.weights import EncoderWeights
from hybrid.operators.base import EncodedLinear, RunState, WeightedOperator
from hybrid.operators.homomorphic import HomomorphicParty, HomomorphicServer
from hybrid.operators.slot_products import CheapestProducts, CkksProducts
from hybrid.planning.catalog import Catalog
from hybrid.planning.plan import Plan, build_plan
from hybrid.planning.schedule import Schedule
from hybrid.runtime.key_exchange import receive_keys, send_keys
from hybrid.runtime.runner import Measured, Progress, RequestResult, run_offline, run_request
from mpc_nonlinear.blocks.session import Products, Session
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from transport.channel import Channel
from transport.errors import ConfigError, FrameError, UsageError
from transport.handshake import handshake, recv_public, send_public
from transport.randomness import SecureRandom
from transport.traffic import Party

_DESCRIPTION_BYTES = 1 << 20
_DESCRIPTION_KEYS = {"architecture", "bounds", "embedding", "schedule"}
_ANOTHER, _FINISHED, _AHEAD = b"\x01", b"\x00", b"\x02"
"""The client's words: run a request, end, or run the offline phase of the next request."""


def _ignore(_step: str, _layer: int) -> None:
    """No progress display."""


@dataclass(frozen=True, slots=True)
class ServerModel:
    """What the server loads before any client comes."""

    architecture: Architecture
    weights: EncoderWeights
    bounds: Mapping[str, Bound]
    schedule: Schedule | None = None
    """None: what the config names."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as the client sees it."""

    result: RequestResult
    pooled: FloatArray
    """Mean-pooled embeddings of the texts, (texts, hidden), not normalised."""
    seconds: float


class _SessionParts:
    """Set-up that both parties share."""

    def __init__(self, config: RunConfig, catalog: Catalog, channel: Channel) -> None:
        self.config = config
        self.catalog = catalog
        self.channel = channel
        self.progress: Progress = _ignore
        self._requests = 0
        self._ahead: list[Measured] | None = None
        """Offline steps of the next request, if they have run."""

    def agree_on_config(self) -> None:
        handshake(self.channel, {"config": self.config.public_hash()})

    def agree_on_plan(
        self,
        architecture: Architecture,
        bounds: Mapping[str, Bound],
        schedule: Schedule | None,
    ) -> Plan:
        plan = build_plan(self.config, architecture, bounds, self.catalog, schedule)
        handshake(self.channel, {"plan": plan.digest()})
        return plan

    def start_correlations(self, plan: Plan, dealer: Channel | None) -> CorrelationSource:
        """Make this party's source of correlations and set it up."""
        party, randomness = self.channel.party, SecureRandom(domain="correlations")
        source: CorrelationSource
        if issubclass(plan.source, TrustedDealer):
            assert dealer is not None
            source = plan.source(party, randomness, dealer)
        else:
            make: Callable[[Party, SecureRandom], CorrelationSource] = plan.source
            source = make(party, randomness)
        source.setup(self.channel)
        return source

    def session(self, plan: Plan, party: HomomorphicParty, source: CorrelationSource) -> Session:
        products = with_keys(plan.context.mpc.products, party)
        context = replace(plan.context.mpc, products=products)
        return Session(self.channel, context, source, SecureRandom(domain="mpc"))


def products_of(plan: Plan, party: HomomorphicParty) -> dict[str, Products]:
    """Every engine of elementwise products, able to run."""
    return {name: with_keys(products, party) for name, products in plan.products.items()}


def with_keys(products: Products, party: HomomorphicParty) -> Products:
    """The same products, able to run: CKKS ones get this party's keys."""
    if isinstance(products, CkksProducts):
        return replace(products, party=party)
    if isinstance(products, CheapestProducts):
        return products.with_choices(lambda choice: with_keys(choice, party))
    return products


class ClientSession(_SessionParts):
    """The client's side: holds texts and the secret key, never opens the weights file."""

    def setup(self, vocabulary: int, dealer: Channel | None = None) -> Plan:
        """Everything up to the first request; `vocabulary` is the client's tokenizer's."""
        self.agree_on_config()
        description = recv_public(self.channel, _DESCRIPTION_BYTES)
        architecture, bounds, digest, schedule = _parse_description(description)
        # Checked before any text is looked up, so that no failure depends on a text.
        if vocabulary > architecture.vocabulary:
            raise ConfigError(
                f"tokenizer.json: {vocabulary} tokens, the server's model has "
                f"{architecture.vocabulary}; use the model folder that belongs to it"
            )
        self._check_trust(schedule)
        plan = self.agree_on_plan(architecture, bounds, schedule)
        self.table = receive_table(self.channel, architecture, digest)
        self.progress("keys", -1)
        randomness = SecureRandom(domain="ckks client")
        homomorphic, rings = send_keys(plan, self.channel, randomness)
        source = self.start_correlations(plan, dealer)
        self.progress("waiting for encoded weights", -1)
        self.plan, self._session = plan, self.session(plan, homomorphic, source)
        for step in plan.steps:
            step.operator.setup(self._session, None)
        self.channel.recv(1)
        products = products_of(plan, homomorphic)
        self._state = RunState(self._session, homomorphic, {}, None, None, None, rings, products)
        return plan

    def _check_trust(self, schedule: Schedule | None) -> None:
        """The server chose; the client's own config says within which limits."""
        rules = self.config.scheduler
        if (schedule is None) != (rules.policy == "fixed"):
            raise ConfigError(
                f"scheduler.policy: the server's schedule is not what {rules.policy!r} asks for; "
                "use the same config at both parties"
            )
        if schedule is None:
            return
        source = self.catalog["correlations", schedule.correlations]
        if rules.trust == "no_dealer" and issubclass(source, TrustedDealer):
            raise ConfigError(
                "scheduler.trust: the server's schedule relies on a dealer; refuse this server or "
                "set dealer_allowed"
            )

    def prepare(self) -> None:
        """The offline phase of the next request, before there is a text; done once at most."""
        if self._ahead is None:
            self.channel.send(_AHEAD)
            self._ahead = run_offline(self.plan, self._state, self._requests, self.progress)

    def query(self, token_ids: Sequence[NDArray[np.int64]]) -> Answer:
        """One private inference of 1 to `model.batch` texts; only its online phase if prepared."""
        tokens, batch = self.config.model.tokens, self.config.model.batch
        if not 1 <= len(token_ids) <= batch:
            raise UsageError(f"query: {len(token_ids)} texts; give 1 to model.batch, {batch}")
        counts = np.zeros(batch, np.int64)
        padded = np.zeros((batch, tokens), np.int64)
        # Missing texts repeat the first: all bounds that hold for it then hold for them, where a
        # text of padding alone would be like nothing that was calibrated on.
        filled = [*token_ids, *[token_ids[0]] * (batch - len(token_ids))]
        for index, ids in enumerate(filled):
            if not 1 <= len(ids) <= tokens:
                raise UsageError(f"query: a text of {len(ids)} tokens; give 1 to {tokens}")
            counts[index] = len(ids)
            padded[index, : len(ids)] = ids
        mask = np.arange(tokens) < counts[:, None]
        start = time.perf_counter()
        state = replace(self._state, mask=mask)
        own = state.encode(np.concatenate([self.table.embed(ids) for ids in padded]))
        self.channel.send(_ANOTHER)
        ahead, self._ahead = self._ahead, None
        result = run_request(self.plan, state, self._requests, own, self.progress, ahead)
        self._requests += 1
        unit = 2.0**-self.plan.context.output_bits
        sums = result.output.view(np.int64).reshape(batch, -1)[: len(token_ids)] * unit
        pooled = sums / counts[: len(token_ids), None]
        return Answer(result, pooled, time.perf_counter() - start)

    def finish(self) -> None:
        """Tell the server that no request follows."""
        self.channel.send(_FINISHED)


class ServerSession(_SessionParts):
    """The server's side: holds the weights, never sees a text."""

    def setup(self, model: ServerModel, dealer: Channel | None = None) -> Plan:
        """Everything up to the first request."""
        self.agree_on_config()
        table = model.weights.embedding
        description = {
            "architecture": model.architecture.to_public(),
            "bounds": bounds_to_public(model.bounds),
            "embedding": table.digest(),
            "schedule": None if model.schedule is None else model.schedule.to_public(),
        }
        send_public(self.channel, description)
        plan = self.agree_on_plan(model.architecture, model.bounds, model.schedule)
        send_table(self.channel, table)
        maps = fold(model.weights, model.architecture)
        self.progress("encoding weights", -1)
        # Encoded while the client makes its keys.
        kept = plan.kept_weights(self.config.weights_memory_gb())
        encoded = {
            step.node.name: step.operator.encode(maps[step.node.name], keep=step.node.name in kept)
            for step in plan.steps
            if isinstance(step.operator, WeightedOperator)
        }
        randomness = SecureRandom(domain="ckks server")
        threads = self.config.runtime.threads
        homomorphic, self._ring = receive_keys(plan, self.channel, randomness, threads)
        source = self.start_correlations(plan, dealer)
        self.plan = plan
        self._state = self._run_state(plan, homomorphic, source, encoded, maps["pool"])
        for step in plan.steps:
            step.operator.setup(self._state.session, encoded.get(step.node.name))
        self.channel.send(b"\x00")
        return plan

    def _run_state(
        self,
        plan: Plan,
        homomorphic: HomomorphicServer,
        source: CorrelationSource,
        encoded: Mapping[str, EncodedLinear],
        pool: Any,
    ) -> RunState:
        session = self.session(plan, homomorphic, source)
        products = products_of(plan, homomorphic)
        return RunState(
            session, homomorphic, encoded, pool.scale, pool.shift, None, self._ring, products
        )

    def serve(self) -> Iterator[RequestResult]:
        """Requests until the client finishes."""
        model = self.config.model
        shape = (model.batch * model.tokens, self._state_hidden())
        while (word := self.channel.recv(1)) != _FINISHED:
            if word == _AHEAD and self._ahead is None:
                self._ahead = run_offline(self.plan, self._state, self._requests, self.progress)
            elif word == _ANOTHER:
                # The embedding is the client's alone: the server's share of it is zero.
                own, ahead = np.zeros(shape, np.uint64), self._ahead
                self._ahead = None
                yield run_request(self.plan, self._state, self._requests, own, self.progress, ahead)
                self._requests += 1
            else:
                raise FrameError("setup: the client sent an unknown request word; same version?")

    def _state_hidden(self) -> int:
        return self.plan.steps[-1].node.shape[-1]


def _parse_description(
    data: object,
) -> tuple[Architecture, dict[str, Bound], str, Schedule | None]:
    """The server's public description, from untrusted plain data."""
    if not isinstance(data, dict) or set(data) != _DESCRIPTION_KEYS:
        raise FrameError("handshake: the server's description is malformed; same version?")
    architecture = Architecture.from_public(data["architecture"], "handshake")
    digest = data["embedding"]
    # It names a file in the client's cache: nothing but hexadecimal digits.
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise FrameError("handshake: the embedding digest is malformed; same version?")
    schedule = None if data["schedule"] is None else Schedule.from_public(data["schedule"])
    return architecture, bounds_from_public(data["bounds"]), digest, schedule
