"""The two parties of a session: set-up, then one request after the other.

Set-up, in this order: handshake on version and config; the server's public description (model
with its head, schedule, digests of the public embedding table and of what is said of texts);
comparison of plan hashes; the table, unless the client has it; the client's public keys; base OTs;
the server's word that its weights are encoded.
Everything sent here is counted under the label "setup".
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.models.folding import FloatArray
from hybrid.models.loading import public_model
from hybrid.models.model import Model, PublicModel
from hybrid.models.public_table import receive_table, send_table
from hybrid.models.tokenizing import TextEncoder
from hybrid.operators.base import WeightedOperator
from hybrid.planning.candidates import check_limits, checked_policy
from hybrid.planning.catalog import Catalog
from hybrid.planning.plan import Plan, build_plan
from hybrid.planning.schedule import Schedule, named_schedule
from hybrid.runtime.key_exchange import receive_keys, send_keys
from hybrid.runtime.runner import Measured, Progress, RequestResult, run_offline, run_request
from hybrid.runtime.session_checks import check_rows, checked_description
from hybrid.runtime.session_parts import SessionParts, run_state
from hybrid.runtime.text_checks import check_same_texts, checked_ids
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.errors import FrameError, UsageError
from transport.handshake import handshake, recv_public, send_public
from transport.randomness import SecureRandom

_DESCRIPTION_BYTES = 1 << 20
_DESCRIPTION_KEYS = {"model", "embedding", "schedule", "texts"}
_ANOTHER, _FINISHED, _AHEAD = b"\x01", b"\x00", b"\x02"
"""The client's words: run a request, end, or run the offline phase of the next request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as the client sees it."""

    result: RequestResult
    values: FloatArray
    """Finished answers to the texts, a row each."""
    seconds: float


class _EncoderParts(SessionParts):
    """Set-up that both parties of an encoder's session share."""

    plan: Plan

    def __init__(
        self, config: Config, catalog: Catalog, channel: Channel, progress: Progress | None = None
    ) -> None:
        super().__init__(config, catalog, channel, progress)
        self._requests = 0
        self._ahead: list[Measured] | None = None
        """Offline steps of the next request, if they have run."""

    def _agree_on_plan(self, model: PublicModel, schedule: Schedule) -> Plan:
        plan = build_plan(self.config.run, model.graph, self.catalog, schedule)
        handshake(self.channel, {"plan": f"sha256 {plan.digest()}"})
        return plan


class ClientSession(_EncoderParts):
    """The client's side: holds texts and the secret key, never opens the weights file."""

    def setup(self, encoder: TextEncoder, dealer: Channel | None = None) -> Plan:
        """Everything up to the first request; encoder: the client's own."""
        self.agree_on_config()
        description = recv_public(self.channel, _DESCRIPTION_BYTES)
        model, digest, schedule = self._parsed(description, encoder)
        plan = self._agree_on_plan(model, schedule)
        self._model, self._table = model, receive_table(self.channel, model, digest)
        self.progress("keys", -1)
        homomorphic, rings = send_keys(plan, self.channel, SecureRandom(domain="ckks client"))
        source = self.start_correlations(plan, dealer)
        self.progress("waiting for encoded weights", -1)
        state = replace(run_state(self.channel, plan, homomorphic, source), ring=rings)
        for step in plan.steps:
            step.operator.setup(state.session, None)
        self.channel.recv(1)
        self.plan, self._state = plan, state
        return plan

    def _parsed(self, data: object, encoder: TextEncoder) -> tuple[PublicModel, str, Schedule]:
        """The server's public description, from untrusted plain data."""
        parts = checked_description(data, _DESCRIPTION_KEYS)
        digest = parts["embedding"]
        # It names a file in the client's cache: nothing but hexadecimal digits.
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise FrameError("handshake: the embedding digest is malformed; same version?")
        model = public_model(self.config, parts["model"])
        # Checked before any text is looked up, so that no failure depends on a text.
        check_same_texts(encoder, parts["texts"], model.architecture.vocabulary)
        chosen = None if parts["schedule"] is None else Schedule.from_public(parts["schedule"])
        checked_policy(chosen, self.config.run, self.catalog)
        nodes = model.graph.nodes
        if chosen is None:
            return model, digest, named_schedule(self.config, nodes, self.catalog)
        check_limits(chosen, nodes, self.catalog, self.config.run)
        return model, digest, chosen

    @property
    def vocabulary(self) -> int:
        """Token ids of the model, once the session is set up."""
        return self._model.architecture.vocabulary

    def prepare(self) -> None:
        """The offline phase of the next request, before there is a text; done once at most."""
        if self._ahead is None:
            self.channel.send(_AHEAD)
            self._ahead = run_offline(self.plan, self._state, self._requests, self.progress)

    def check(self, token_ids: NDArray[np.int64], place: str) -> None:
        """`RefusedError` where the ranges do not hold what this text sends in; sends nothing.

        Edges inside the model are seen by nobody, so a text that passes may exceed them.
        """
        tokens, graph = self.config.run.model.tokens, self.plan.graph
        padded, counts = _padded([token_ids], 1, tokens)
        mask = np.arange(tokens) < counts[:, None]
        values = self._values(padded, mask)
        for edge in graph.inputs:
            bound = None if edge.is_bits else graph.input_bound(edge.name)
            if bound is not None:
                check_rows(values[edge.name], edge.name, bound, place)

    def _values(
        self, padded: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Of the family's inputs."""
        ids = self._model.ids(padded)
        return self._model.family.client_inputs(self._table, ids, mask)

    def checked(self, token_ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Ids that may be asked; `UsageError` for others."""
        model = self.config.run.model
        return checked_ids(token_ids, model.tokens, self.vocabulary, pairs=model.pairs)

    def query(self, token_ids: Sequence[NDArray[np.int64]]) -> Answer:
        """One private inference of 1 to `model.batch` texts; only its online phase if prepared."""
        model = self.config.run.model
        if not 1 <= len(token_ids) <= model.batch:
            raise UsageError(f"query: {len(token_ids)} texts; give 1 to model.batch, {model.batch}")
        checked = self.checked(token_ids)
        padded, counts = _padded(checked, model.batch, model.tokens)
        start = time.perf_counter()
        mask = np.arange(model.tokens) < counts[:, None]
        head, width = self._model.head, self._model.architecture.hidden
        values = self._values(padded, mask)
        own = self._shares({**values, **head.client_inputs(mask, width)})
        self.channel.send(_ANOTHER)
        ahead, self._ahead = self._ahead, None
        result = run_request(self.plan, self._state, self._requests, own, self.progress, ahead)
        self._requests += 1
        (name,) = self.plan.graph.outputs
        opened = head.opened(result.outputs[name], counts)[: len(token_ids)]
        scale = self.plan.graph.opened_scale()
        finished = np.stack([head.finished(row * scale) for row in opened])
        return Answer(result, finished, time.perf_counter() - start)

    def _shares(self, values: Mapping[str, NDArray[Any]]) -> dict[str, RingArray]:
        """All of every input: the server's share is zero."""
        return {
            edge.name: values[edge.name].astype(np.uint64)
            if edge.is_bits
            else self._state.encode(values[edge.name])
            for edge in self.plan.graph.inputs
        }

    def finish(self) -> None:
        """Tell the server that no request follows."""
        self.channel.send(_FINISHED)


def _padded(
    token_ids: Sequence[NDArray[np.int64]], batch: int, tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (batch, tokens) and how many of each row are real."""
    counts = np.zeros(batch, np.int64)
    padded = np.zeros((batch, tokens), np.int64)
    # Missing texts repeat the first: all bounds that hold for it then hold for them, where a
    # text of padding alone would be like nothing that ranges were found on.
    filled = [*token_ids, *[token_ids[0]] * (batch - len(token_ids))]
    for index, ids in enumerate(filled):
        counts[index] = len(ids)
        padded[index, : len(ids)] = ids
    return padded, counts


class ServerSession(_EncoderParts):
    """The server's side: holds the weights, never sees a text."""

    def setup(self, model: Model, schedule: Schedule, dealer: Channel | None = None) -> Plan:
        """Everything up to the first request."""
        self.agree_on_config()
        table = model.weights.embedding
        chosen = self.config.run.scheduler.policy != "fixed"
        description = {
            "model": model.public.to_public(),
            "embedding": table.digest(),
            "schedule": schedule.to_public() if chosen else None,
            "texts": dict(model.texts),
        }
        send_public(self.channel, description)
        plan = self._agree_on_plan(model.public, schedule)
        send_table(self.channel, table)
        self.progress("encoding weights", -1)
        maps = plan.graph.scaled_maps(model.maps())
        # Encoded while the client makes its keys.
        kept = plan.kept_weights(self.config.run.weights_memory_gb())
        encoded = {
            step.node.name: step.operator.encode(maps[step.node.name], keep=step.node.name in kept)
            for step in plan.steps
            if isinstance(step.operator, WeightedOperator)
        }
        randomness = SecureRandom(domain="ckks server")
        threads = self.config.run.runtime.threads
        homomorphic, rings = receive_keys(plan, self.channel, randomness, threads)
        source = self.start_correlations(plan, dealer)
        state = run_state(self.channel, plan, homomorphic, source)
        others = {name: own for name, own in maps.items() if name not in encoded}
        self.plan = plan
        self._state = replace(state, ring=rings, encoded=encoded, maps=others)
        for step in plan.steps:
            step.operator.setup(self._state.session, encoded.get(step.node.name))
        self.channel.send(b"\x00")
        return plan

    def serve(self) -> Iterator[RequestResult]:
        """Requests until the client finishes."""
        while (word := self._next_word()) != _FINISHED:
            if word == _AHEAD and self._ahead is None:
                self._ahead = run_offline(self.plan, self._state, self._requests, self.progress)
            elif word == _ANOTHER:
                # Inputs are the client's alone: the server's share of them is zero.
                own = {i.name: np.zeros(i.shape, np.uint64) for i in self.plan.graph.inputs}
                ahead, self._ahead = self._ahead, None
                yield run_request(self.plan, self._state, self._requests, own, self.progress, ahead)
                self._requests += 1
            else:
                raise FrameError("setup: the client sent an unknown request word; same version?")

    def _next_word(self) -> bytes:
        with self.channel.patience(self.config.run.runtime.idle_s):
            return self.channel.recv(1)
