"""Configs of the small trained decoders, and what the plain model answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml

from hybrid.config.loading import Config, checked
from hybrid.reports.generation_costs import differing_steps
from hybrid.runtime.generation_local import LocalGeneration, plain_answer
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient
from tests.waiting import GUARD_S
from transport.channel import Channel
from transport.errors import HybridError
from transport.local import memory_pair

DECODERS = Path(__file__).resolve().parent / "data" / "decoders"
_NONLINEAR = {
    "llama": {"rmsnorm": "pieces", "silu": "cubic_pieces"},
    "gpt2": {"layernorm": "pieces", "gelu_tanh": "cubic_pieces"},
}
_DEALT = {
    "causal_softmax": "squared_polynomial",
    "rmsnorm": "octave_polynomial",
    "layernorm": "octave_polynomial",
    "silu": "magnitude_polynomial",
    "gelu_tanh": "even_polynomial",
}
"""Instead, where products are dealt."""


def generation_content(family="llama", *, dealer=False, **settings):
    """What a YAML file would hold; settings: of `generation`, or whole tables by name."""
    linear = "beaver" if dealer else "exact_rows"
    protocols = {
        "embedding": linear,
        "linear": linear,
        "cached_attention": "beaver" if dealer else "slot_correlations",
        "causal_softmax": "own_powers",
        "multiply": "dealer" if dealer else "slot_triples",
        **_NONLINEAR[family],
    }
    if dealer:
        protocols |= {op: _DEALT[op] for op in protocols if op in _DEALT}
    tables = {
        "name": f"tiny-{family}",
        "model": {"path": str(DECODERS / family), "embedding": "private"},
        "mpc": {"fraction_bits": 16, "correlations": "dealer" if dealer else "softspoken"},
        "protocols": protocols,
        "ranges": {"margin": 2.0},
    }
    for key in [key for key in settings if key in tables]:
        tables[key] = {**tables[key], **settings.pop(key)}
    if tables["model"]["embedding"] == "public_table":
        del protocols["embedding"]
    generation = {"positions": 64, "max_new_tokens": 4, "rows": 32, **settings}
    return {**tables, "generation": generation}


def generation_config(family="llama", **settings) -> Config:
    return checked(generation_content(family, **settings), Path("tiny.yaml"))


def write_generation_config(folder: Path, family="llama", **settings) -> Path:
    path = folder / f"{family}.yaml"
    path.write_text(yaml.safe_dump(generation_content(family, **settings)))
    return path


def plain_tokens(session: LocalGeneration, answer) -> list[int]:
    """The plain model's greedy answer to the same ids."""
    return plain_answer(session.model, session.prompts, answer.read, len(answer.tokens))[0]


def smallest_cosine(session: LocalGeneration, answer) -> float:
    """Of private and plain logits behind the same ids."""
    count = len(answer.tokens)
    ids = np.array([*answer.read, *answer.tokens[:-1]], np.int64)
    plain = list(session.model.plain_logits(ids)[-count:])
    private = session.result.logits(16)[answer.first_pass : answer.first_pass + count]
    return min(
        x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(plain, private, strict=True)
    )


def undeclared(session: LocalGeneration) -> list[dict]:
    """Steps of either party whose traffic is not what the plan says."""
    records = {"client": session.result.client, "server": session.result.server}
    pairs = records.items()
    return [step for party, one in pairs for step in differing_steps(session.plan, one, party)]


def both_ends(
    server: Config, client: Config, ask: Callable[[AskingClient], object] = lambda _client: None
) -> tuple[BaseException | None, BaseException | None]:
    """How a session in two threads ends at the server and at the client, who asks in it."""

    def serve(channel: Channel) -> None:
        AnsweringServer(server).serve_session(channel)

    def query(channel: Channel) -> None:
        asking = AskingClient(client)
        asking.open(channel)
        ask(asking)
        asking.close()

    pair = memory_pair(timeout_s=GUARD_S)

    def ended(role: Callable[[Channel], None], channel: Channel) -> BaseException | None:
        try:
            role(channel)
        except HybridError as error:
            return error
        finally:
            channel.close()
        return None

    with ThreadPoolExecutor(max_workers=2) as pool:
        ends = dict(zip((query, serve), pair, strict=True))
        futures = {role: pool.submit(ended, role, channel) for role, channel in ends.items()}
        return futures[serve].result(), futures[query].result()
