"""The small trained decoders of the test data: they load, and they have learned something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.models.causal import Cache
from hybrid.models.decoders import read_decoder, read_tokenizer
from hybrid.models.sampling import greedy

DATA = Path(__file__).resolve().parent / "data" / "decoders"
HELD_OUT = (DATA / "heldout.txt").read_text(encoding="utf-8")
CONTEXT = 64


def surprise(logits, wanted):
    """Negative log-likelihoods of the tokens that came."""
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(-1))
    return total - shifted[np.arange(len(wanted)), wanted]


@pytest.mark.parametrize(("kind", "expected"), [("llama", 19.0), ("gpt2", 21.9)])
def test_they_beat_a_unigram_model_of_the_same_text(kind, expected):
    model, tokenizer = read_decoder(DATA / kind), read_tokenizer(DATA / kind)
    ids = tokenizer.encode(HELD_OUT)
    counts = np.bincount(ids)
    unigram = np.exp(-np.log(counts[ids] / len(ids)).mean())
    pieces = ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    found = [surprise(model.logits(piece)[:-1], piece[1:]) for piece in pieces]
    perplexity = np.exp(np.mean(found))
    assert 150 < unigram < 250
    assert perplexity == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_float16_weights_are_exact_in_both_precisions(kind):
    model, tokenizer = read_decoder(DATA / kind), read_tokenizer(DATA / kind)
    assert model.architecture.vocabulary == tokenizer.vocabulary == 512
    assert tokenizer.end_ids == {2}
    ids = tokenizer.encode("Every linear layer is computed by")
    exact = model.logits(ids, dtype=torch.float64)
    assert np.abs(model.logits(ids) - exact).max() < 1e-4
    words = model.weights.embedding.words
    assert np.array_equal(words, words.astype(np.float16))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_is_continued_from_its_prefix(kind):
    model, tokenizer = read_decoder(DATA / kind), read_tokenizer(DATA / kind)
    prompt = tokenizer.chat([{"role": "user", "content": "What is a share?"}])
    assert tokenizer.decode(prompt.prefix) == "system\nYou answer briefly.\nuser\n"
    cache = Cache()
    model.logits(prompt.prefix, cache)
    answers = (
        model.generate(prompt.private, greedy, tokenizer.end_ids, cache),
        model.generate(prompt.ids, greedy, tokenizer.end_ids),
    )
    first, second = ([next(a) for _ in range(20)] for a in answers)
    assert first == second and len(set(first)) > 3
