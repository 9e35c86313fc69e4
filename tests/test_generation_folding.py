"""What a pass computes, in the clear: graph and folded maps against `transformers`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.models.generator import client_rows
from hybrid.models.generator_loading import load_generator
from tests.clear_graph import ClearConversation
from tests.generation_setup import DECODERS, generation_config


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def published(request):
    """The family's name and its small model, as `transformers` reads and computes it."""
    import transformers

    found = transformers.AutoModelForCausalLM.from_pretrained(
        DECODERS / request.param, dtype=torch.float64, attn_implementation="eager"
    )
    return request.param, found.eval()


@pytest.mark.parametrize("embedding", ["private", "public_table"])
@pytest.mark.parametrize("chat", [True, False], ids=["behind a prefix", "without a prefix"])
def test_the_graph_has_the_published_logits(published, chat, embedding):
    family, reference = published
    config = generation_config(family, chat=chat, model={"embedding": embedding})
    generator = load_generator(config)
    prefix = generator.public.prefix
    assert (len(prefix) > 0) == chat
    private = np.random.default_rng(3).integers(0, 512, 17)
    with torch.no_grad():
        ids = torch.from_numpy(np.concatenate([prefix, private]))[None]
        wanted = reference(ids).logits[0].numpy()[len(prefix) :]
    assert np.ptp(wanted) > 5
    talk = ClearConversation(generator)
    start = 0
    # A prompt of odd length, tokens one by one, and a turn that goes on.
    for count in (7, 1, 1, 1, 5, 1, 1):
        found = talk.logits(private[start : start + count])
        start += count
        assert np.abs(found - wanted[start - 1]).max() < 1e-4, f"behind {start} tokens"
    assert start == len(private)


def test_one_hot_rows_are_the_table(published):
    """With learned positions a second one in a row, at the position in the whole context."""
    family, reference = published
    generator = load_generator(generation_config(family))
    public = generator.public
    ids, past = np.array([0, 511, 7]), 9
    words = client_rows(public, ids, past, 0).one_hot(public)
    learned = family == "gpt2"
    assert words.dtype == np.uint64
    assert set(np.unique(words)) == {0, 1}
    assert np.array_equal(words.sum(1), [1 + learned] * 3)
    table = dict(generator.maps())["embedding"]
    found = words.astype(float) @ table.weight + table.bias
    wanted = reference.get_input_embeddings().weight.detach().numpy()[ids]
    if learned:
        first = len(public.prefix) + past
        places = reference.transformer.wpe.weight.detach().numpy()
        wanted = wanted + places[first : first + 3]
    assert np.abs(found - wanted).max() < 1e-6
