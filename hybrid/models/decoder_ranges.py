"""Ranges of a decoder: magnitudes at private positions, apart from those of the public prefix.

Trained decoders put numbers at position 0 that are hundreds of times as large as elsewhere [Xiao et
al., arXiv 2309.17453; Sun et al., arXiv 2402.17762]. Where that position is public, the server
computes it in the clear, and no private edge has to hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.causal import Cache
from hybrid.models.decoder_tokenizing import Prompt
from hybrid.models.decoders import DecoderModel
from hybrid.models.ranges import Bound, Observer, observed_ranges
from hybrid.models.sampling import greedy
from transport.errors import ConfigError


def with_answer(
    model: DecoderModel, prompt: Prompt, tokens: int, end_ids: frozenset[int] = frozenset()
) -> Prompt:
    """The prompt and the first tokens of its greedy answer: what a generation has passed through.

    The token that ends an answer is left out; it is never read again.
    """
    answer = list(islice(model.generate(prompt.ids, greedy, end_ids), tokens))
    return Prompt(prompt.prefix, np.concatenate([prompt.private, np.array(answer, np.int64)]))


def private_ranges(
    model: DecoderModel, samples: Sequence[Prompt], margin: float
) -> dict[str, Bound]:
    """Bounds of every edge at private positions; their scores with the prefix are among them."""
    prefixes = {prompt.prefix.tobytes() for prompt in samples}
    if len(prefixes) != 1:
        raise ConfigError(
            f"ranges: samples with {len(prefixes)} public prefixes; give samples, all of them with "
            "the prefix that will be used"
        )
    cache = _after(model, samples[0].prefix)

    def run(private: NDArray[np.int64], see: Observer) -> object:
        return model.logits(private, cache.copy(), see)

    return observed_ranges(run, [prompt.private for prompt in samples], margin)


def _after(model: DecoderModel, prefix: NDArray[np.int64]) -> Cache:
    cache = Cache()
    if len(prefix):
        model.logits(prefix, cache)
    return cache


@dataclass(frozen=True, slots=True)
class Largest:
    """Largest magnitudes on one edge, by the positions of its rows."""

    start: float
    """Position 0."""
    prefix: float
    """The other public ones; 0 where there are none."""
    private: float

    @property
    def ratio(self) -> float:
        """How many times position 0 exceeds what private positions need."""
        return self.start / self.private if self.private else float("inf")


def largest_by_position(model: DecoderModel, samples: Iterable[Prompt]) -> dict[str, Largest]:
    """Of every edge, over all samples.

    Without a prefix position 0 is private, and counts as both.
    """
    found: dict[str, list[float]] = {}

    def run(part: int, ids: NDArray[np.int64], cache: Cache) -> None:
        def see(edge: str, tensor: Tensor) -> None:
            values = found.setdefault(edge, [0.0, 0.0, 0.0])
            values[part] = max(values[part], float(tensor.abs().max()))

        if len(ids):
            model.logits(ids, cache, see)

    for prompt in samples:
        cache = Cache()
        run(0, prompt.ids[:1], cache)
        run(1, prompt.prefix[1:], cache)
        run(2, prompt.private, cache if len(prompt.prefix) else Cache())
    return {edge: Largest(*values) for edge, values in found.items()}


def outliers(largest: Mapping[str, Largest], factor: float = 4.0) -> dict[str, Largest]:
    """Edges on which position 0 is `factor` times what private positions reach; worst first."""
    kept = [(edge, values) for edge, values in largest.items() if values.ratio >= factor]
    return dict(sorted(kept, key=lambda item: -item[1].ratio))


def outlier_lines(found: Mapping[str, Largest]) -> list[str]:
    """A line an edge, for a reader."""
    return [
        f"{edge}: {values.start:.4g} at position 0, {values.prefix:.4g} in the rest of the prefix, "
        f"{values.private:.4g} at private positions ({values.ratio:.0f} times)"
        for edge, values in found.items()
    ]
