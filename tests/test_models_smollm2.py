"""The real decoder: its answers, its tokenizer and its outliers."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.models.causal import Cache
from hybrid.models.decoder_ranges import largest_by_position, outliers, with_answer
from hybrid.models.decoders import read_decoder, read_tokenizer
from hybrid.models.fetching import PUBLISHED
from hybrid.models.sampling import greedy
from transport.errors import ConfigError

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return read_tokenizer(smollm2)


@pytest.fixture(scope="module")
def model(smollm2):
    return read_decoder(smollm2)


@pytest.mark.slow
def test_it_answers(model, tokenizer):
    prompt = tokenizer.chat(FRANCE)
    assert tokenizer.decode(prompt.prefix) == (
        "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\nuser\n"
    )
    cache = Cache()
    model.logits(prompt.prefix, cache)
    ids = list(model.generate(prompt.private, greedy, tokenizer.end_ids, cache))
    assert tokenizer.decode(ids) == "The capital of France is Paris."
    assert cache.length == len(prompt.ids) + len(ids)


@pytest.mark.slow
def test_every_text_it_can_say_comes_back(tokenizer):
    rng = np.random.default_rng(1)
    # Its vocabulary lacks bytes with which characters from U+40000 on start; none is assigned.
    scalars = [i for i in range(32, 0x40000) if not 0xD800 <= i < 0xE000]
    for _ in range(300):
        text = "".join(chr(i) for i in rng.choice(scalars, 30))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.decode([i]) for i in tokenizer.encode("a 2026")] == ["a", " ", *"2026"]
    for character in ("\u0004", "\U00040000"):
        with pytest.raises(ConfigError, match=rf"U\+{ord(character):04X} is not in"):
            tokenizer.encode(f"a{character}b")


@pytest.mark.slow
def test_its_tokens_are_those_of_transformers(smollm2, tokenizer):
    import transformers

    name = next(iter(PUBLISHED["smollm2"].files))
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2, gguf_file=name)
    for text in (
        "Hello world, it's na\u00efve \u4e2d\u6587\n\n  x <|im_end|> 1234",
        "def f(x):\n\treturn x**2  # \U0001f600",
    ):
        assert tokenizer.encode(text).tolist() == theirs.encode(text)
    wanted = theirs.apply_chat_template(FRANCE, add_generation_prompt=True, return_dict=False)
    assert tokenizer.chat(FRANCE).ids.tolist() == wanted


@pytest.mark.slow
def test_the_outlier_is_at_position_0(model, tokenizer):
    prompt = with_answer(model, tokenizer.chat(FRANCE), 24, tokenizer.end_ids)
    largest = largest_by_position(model, [prompt])
    worst = next(iter(outliers(largest)))
    assert worst.endswith("norm.mean_square")
    stream = largest["layer15.sum"]
    assert stream.start > 20000 and stream.private < 1000 and stream.prefix < 1000
    assert max(v.private for e, v in largest.items() if e.endswith(".scores")) < 64
