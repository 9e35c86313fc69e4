"""Ranges of decoders: private positions alone, and outliers at position 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.models.decoder_ranges import (
    Largest,
    largest_by_position,
    outlier_lines,
    outliers,
    private_ranges,
    with_answer,
)
from hybrid.models.decoder_tokenizing import Prompt
from hybrid.models.decoders import read_decoder, read_tokenizer
from hybrid.models.sampling import greedy
from hybrid.models.token_table import TokenTable
from tests.test_models_tiny import DATA
from transport.errors import ConfigError

QUESTIONS = ("What is a share?", "Which protocols are there?", "Who knows the tokens?")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def tiny(request):
    """Model and prompts; the token at position 0 has a row fifty times as large as others."""
    model, tokenizer = read_decoder(DATA / request.param), read_tokenizer(DATA / request.param)
    words = model.weights.embedding.words.copy()
    words[1] *= 50 * np.abs(words).max() / np.abs(words[1]).max()
    table = TokenTable(words, model.weights.embedding.positions)
    chats = [[{"role": "user", "content": text}] for text in QUESTIONS]
    prompts = [tokenizer.chat(chat) for chat in chats]
    # That token stands at the start alone.
    for prompt in prompts:
        prompt.private[prompt.private == 1] = 2
        prompt.prefix[1:][prompt.prefix[1:] == 1] = 2
    return replace(model, weights=replace(model.weights, embedding=table)), prompts


def whole_pass(model, prompt):
    seen = {}
    model.logits(prompt.ids, None, lambda edge, x: seen.update({edge: np.abs(x.numpy())}))
    return seen


def test_private_ranges_leave_the_prefix_out(tiny):
    model, prompts = tiny
    ranges = private_ranges(model, prompts, 1.0)
    seen = [whole_pass(model, prompt) for prompt in prompts]
    first = len(prompts[0].prefix)
    for edge, bound in ranges.items():
        if edge.endswith(".scores"):
            visible = first * (first + 1) // 2
            rows = [s[edge][:, visible:] for s in seen]
        else:
            rows = [s[edge][..., first:, :] for s in seen]
        largest, smallest = max(r.max() for r in rows), min(r.min() for r in rows)
        assert largest <= bound.max_abs * (1 + 1e-5) and bound.max_abs < 2 * largest * (1 + 1e-5)
        assert bound.low <= max(smallest, 2.0**-20) * (1 + 1e-4)
    norm = "layer0.attention_norm.sum"
    assert max(s[norm].max() for s in seen) > 8 * ranges[norm].max_abs
    wider = private_ranges(model, prompts, 4.0)
    assert wider[norm].max_abs == 4 * ranges[norm].max_abs


def test_samples_share_their_prefix(tiny):
    model, prompts = tiny
    other = Prompt(prompts[0].prefix[1:], prompts[0].private)
    with pytest.raises(ConfigError, match="samples with 2 public prefixes"):
        private_ranges(model, [*prompts, other], 2.0)


def test_outliers_at_position_0_are_reported(tiny):
    model, prompts = tiny
    largest = largest_by_position(model, prompts)
    seen = [whole_pass(model, prompt) for prompt in prompts]
    edge, first = "layer1.attention_norm.sum", len(prompts[0].prefix)
    values = largest[edge]
    assert values.start == pytest.approx(max(s[edge][0].max() for s in seen), rel=1e-4)
    assert values.prefix == pytest.approx(max(s[edge][1:first].max() for s in seen), rel=1e-4)
    assert values.private == pytest.approx(max(s[edge][first:].max() for s in seen), rel=1e-4)
    found = outliers(largest, 8.0)
    assert "layer0.attention_norm.sum" in found and "layer0.scores" not in found
    ratios = [v.ratio for v in found.values()]
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] >= 8
    lines = outlier_lines({"layer0.sum": Largest(22500.0, 30.0, 654.0)})
    assert lines == ["layer0.sum: 2.25e+04 at position 0, 30 in the rest of the prefix, 654 at "
                     "private positions (34 times)"]  # fmt: skip


def test_without_a_prefix_position_0_is_private(tiny):
    model, prompts = tiny
    bare = Prompt(np.empty(0, np.int64), prompts[0].ids)
    values = largest_by_position(model, [bare])["layer0.attention_norm.sum"]
    assert 20 < values.start <= values.private and values.prefix == 0
    with torch.no_grad():
        assert private_ranges(model, [bare], 1.0)["layer0.attention_norm.sum"].max_abs >= 32


def test_answers_are_among_the_samples(tiny):
    model, prompts = tiny
    sample = with_answer(model, prompts[0], 7)
    assert len(sample.private) == len(prompts[0].private) + 7
    last = model.logits(sample.ids)
    start = len(prompts[0].ids)
    assert [greedy(row) for row in last[start - 1 : -1]] == sample.private[-7:].tolist()
    end = frozenset({int(sample.private[-5])})
    shorter = with_answer(model, prompts[0], 7, end)
    assert len(shorter.private) <= len(prompts[0].private) + 2
