"""Decoders of which only the shape is real."""

from __future__ import annotations

import pytest

from hybrid.models.generator_loading import load_generator
from hybrid.planning.generation import plan_generation
from hybrid.runtime.generation_local import LocalGeneration
from tests.generation_setup import generation_config, plain_tokens, smallest_cosine, undeclared
from transport.errors import ConfigError

SMALL = {"layers": 1, "vocabulary": 512}
OWN = {"hidden": 64, "layers": 1, "heads": 4, "intermediate": 96, "vocabulary": 300,
       "positions": 64}  # fmt: skip


def shaped(shape, family="llama", **settings):
    model = {"path": None, "shape": shape}
    return generation_config(family, model=model, chat=False, **settings)


@pytest.mark.parametrize(
    ("shape", "family", "sizes"),
    [
        ({"like": "smollm2-135m", **SMALL}, "llama", (576, 9, 3, 64)),
        ({"like": "llama-1b", **SMALL}, "llama", (2048, 32, 8, 64)),
        ({"like": "gpt2", **SMALL}, "gpt2", (768, 12, 12, 64)),
        (OWN, "llama", (64, 4, 4, 16)),
        ({**OWN, "kv_heads": 2, "head_size": 10}, "llama", (64, 4, 2, 10)),
        ({**OWN, "family": "gpt2"}, "gpt2", (64, 4, 4, 16)),
    ],
    ids=lambda given: "-".join(map(str, given.values())) if isinstance(given, dict) else "",
)  # fmt: skip
def test_plans_of_shapes(shape, family, sizes):
    config = shaped(shape, family)
    public = load_generator(config).public
    plan = plan_generation(config, public)
    found, (hidden, heads, kv_heads, size) = public.architecture, sizes
    assert (found.hidden, found.heads, found.layers) == (hidden, heads, 1)
    assert found.vocabulary == shape["vocabulary"]
    nodes = {node.name: node for node in plan.of_pass(3, 5).graph.nodes}
    assert nodes["layer0.qkv"].shape == (3, hidden, (heads + 2 * kv_heads) * size)
    assert nodes["layer0.scores"].shape == (heads, 3, size, 8)
    assert nodes["logits"].shape == (1, hidden, found.vocabulary)
    assert 0 < plan.announced_risk().failure_probability < 2**-20


def test_shapes_by_name():
    """The published sizes; their weights are made and encoded only where they run."""
    from hybrid.models.gpt2 import Gpt2
    from hybrid.models.llama import Llama

    known = {**Llama.shapes, **Gpt2.shapes}
    assert set(known) >= {"smollm2-135m", "llama-1b", "gpt2"}
    smollm2, llama = known["smollm2-135m"], known["llama-1b"]
    assert (smollm2["layers"], smollm2["hidden"], smollm2["kv_heads"]) == (30, 576, 3)
    assert (llama["layers"], llama["hidden"], llama["intermediate"]) == (16, 2048, 8192)
    assert (known["gpt2"]["layers"], known["gpt2"]["hidden"]) == (12, 768)


def test_shapes_have_as_many_positions_as_they_say():
    with pytest.raises(ConfigError, match="positions: 65 and 0 of .* the model's 64 positions"):
        load_generator(shaped(OWN, positions=65))


@pytest.mark.long
def test_an_own_shape_answers_as_its_plain_model():
    with LocalGeneration(shaped(OWN, max_new_tokens=3)) as session:
        shown = "".join(token.text for token in session.generate("any words do here"))
    (answer,) = session.answers
    # One token a word: the ids mean nothing, so numbers are shown.
    assert len(answer.read) == 4
    assert shown == "".join(f"<{token}> " for token in answer.tokens)
    assert answer.tokens == plain_tokens(session, answer)
    assert smallest_cosine(session, answer) > 0.9999
    assert undeclared(session) == []
    assert "RANDOM weights" in session.model.line
