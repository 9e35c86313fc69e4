"""The next token in the clear, against transformers' own filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.models.sampling import Sampling, greedy
from transport.errors import ConfigError

RNG = np.random.default_rng(6)


def test_greedy_takes_the_first_of_the_largest():
    assert greedy(np.array([1.0, 7.0, 3.0, 7.0])) == 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 5, 40])
@pytest.mark.parametrize("top_p", [None, 0.2, 0.9, 1.0])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    from transformers.generation import logits_process as theirs

    steps = [theirs.TemperatureLogitsWarper(temperature)]
    if top_k is not None:
        steps.append(theirs.TopKLogitsWarper(top_k))
    if top_p is not None:
        steps.append(theirs.TopPLogitsWarper(top_p))
    for _ in range(5):
        logits = RNG.normal(0, 3, 30)
        scores = torch.from_numpy(logits)[None]
        for step in steps:
            scores = step(torch.zeros((1, 1), dtype=torch.long), scores)
        found = Sampling(temperature, top_k, top_p).probabilities(logits)
        assert np.allclose(found, torch.softmax(scores, -1)[0].numpy(), atol=1e-12)


def test_ties_at_the_edge_of_the_k_largest_all_take_part():
    found = Sampling(top_k=2).probabilities(np.array([3.0, 1.0, 1.0, 0.0]))
    assert found[1] == found[2] > 0 == found[3]


def test_draws_have_these_probabilities():
    sampling, logits = Sampling(0.7, 6, 0.95), RNG.normal(0, 2, 12)
    wanted = sampling.probabilities(logits)
    uniforms = (np.arange(20000) + 0.5) / 20000
    drawn = np.array([sampling.choose(logits, u) for u in uniforms])
    assert np.abs(np.bincount(drawn, minlength=12) / 20000 - wanted).max() < 2e-4
    assert (np.diff(drawn) >= 0).all()
    possible = np.flatnonzero(wanted)
    assert sampling.choose(logits, 0.0) == possible[0]
    assert sampling.choose(logits, np.nextafter(1, 0)) == possible[-1]


def test_the_cumulative_probability_has_to_exceed_the_number():
    assert Sampling().choose(np.zeros(2), 0.5) == 1
    assert Sampling(top_k=1).choose(np.array([0.0, 1.0]), 0.0) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "sampling.temperature: 0.0; give a positive number, or take"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_k": 0}, "sampling.top_k: 0"),
        ({"top_p": 0.0}, "sampling.top_p: 0.0"),
        ({"top_p": 1.5}, "sampling.top_p: 1.5"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)
