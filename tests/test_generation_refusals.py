"""What a decoder's run cannot do ends in one line that names place, value and remedy."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import hybrid as library
from hybrid.config.loading import checked
from hybrid.models.generator_loading import load_generator
from hybrid.planning import generation as planning
from hybrid.planning.generation import plan_generation
from hybrid.runtime import generating
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_remote import RemoteGeneration
from hybrid.runtime.session_checks import checked_description
from tests.decoder_files import gguf_tensors, write_gguf, written
from tests.generation_setup import (
    DECODERS,
    both_ends,
    generation_config,
    generation_content,
    write_generation_config,
)
from tests.processes import run
from tests.test_models_tokenizing import gguf_settings
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError, FrameError, HandshakeError, HybridError, UsageError

NOWHERE = ("--connect", "tcp://127.0.0.1:9")
GONE = object()


def changed(content, changes):
    """With these values at dotted keys."""
    for key, value in changes.items():
        *tables, last = key.split(".")
        table = content
        for name in tables:
            table = table.setdefault(name, {})
        if value is GONE:
            del table[last]
        else:
            table[last] = value
    return content


def refused(content) -> str:
    """What loading and planning say."""
    with pytest.raises(HybridError) as error:
        config = checked(content, Path("tiny.yaml"))
        plan_generation(config, load_generator(config).public)
    assert "\n" not in str(error.value)
    return str(error.value)


CKKS = {"parameters": "n8192_q88", "baby_steps": "auto", "linear_phase": "online"}
SETTINGS = [
    ({"generation.positions": 300}, "positions: 300 and 26 of the public prefix exceed the model's "
     "256 positions; lower it"),
    ({"generation.max_new_tokens": 64}, "max_new_tokens 64 leaves no position for a prompt; posi"),
    ({"generation.top_p": 0.9}, "top_p 0.9 is not supported: .*; use top_k"),
    ({"generation.temperature": 1e-4}, "temperature 0.0001 is too small; use 2.-10 or more, or 0"),
    ({"generation.temperature": 2000.0}, "generation.temperature: .*1024, got 2000.0"),
    ({"generation.top_k": 5}, "top_k would be ignored, since temperature 0 is greedy; remove it"),
    ({"generation.temperature": 0.8}, "generation.top_k: missing; .*512 tokens .*give 1 to 256"),
    ({"generation.temperature": 0.8, "generation.top_k": 300}, "top_k: .*256, got 300"),
    ({"generation.rows": 0}, "generation.rows: .*greater than or equal to 1, got 0"),
    ({"generation.system": "Be kind.", "generation.chat": False}, "system would be ignored without "
     "chat; remove it"),
    ({"model.tokens": 8}, "model.tokens would be ignored beside generation; remove it"),
    ({"model.pooling": "mean"}, "model.pooling would be ignored beside generation; remove it"),
    ({"model.normalize": True}, "model.normalize would be ignored beside generation; remove it"),
    ({"ckks": CKKS}, "ckks.linear_phase would be ignored beside generation; remove it"),
    ({"mpc.output_bits": 6}, "mpc.output_bits would be ignored beside generation; remove it"),
    ({"model.path": "nowhere"}, "model.path: 'nowhere' does not exist; run `hybrid fetch smollm2`"),
]  # fmt: skip
PROTOCOLS = [
    ({"protocols.embedding": GONE}, "protocols.embedding: missing; name one of beaver, exact_rows"),
    ({"protocols.linear": GONE}, "protocols.linear: missing; name one of"),
    ({"protocols.cached_attention": GONE}, "protocols.cached_attention: missing; name one of"),
    ({"protocols.multiply": GONE}, "protocols.multiply: missing; name one of .*slot_triples"),
    ({"protocols": GONE}, "protocols missing; give all of protocols"),
    ({"protocols.linear": "exact_row"}, "no linear is called 'exact_row'; did you mean 'exact_"),
    ({"protocols.silu": "even"}, "no silu is called 'even'; known: .*magnitude_polynomial"),
    ({"protocols.multiply": "ot"}, "layer0.attention_norm: rmsnorm/pieces works with products by "
     "slot_triples, not by 'ot'; name those as multiply"),
    ({"protocols.multiply": "slots"}, "no engine of products is called 'slots'; known: .*slot_tr"),
    ({"protocols.attention": "beaver"}, "unknown key 'attention', this model has no such operation;"
     " did you mean 'cached_attention'"),
    ({"protocols.linear": "token_periodic"}, "protocols.linear: 'token_periodic' encodes weights "
     "for a fixed number of rows.*use exact_rows"),
    ({"protocols.multiply": "dealer"}, "'dealer' needs mpc.correlations: dealer"),
    ({"protocols.linear": "beaver"}, "protocols.linear: 'beaver' takes products from a dealer.*set "
     "mpc.correlations: dealer"),
    ({"protocols": GONE, "mpc.correlations": GONE, "scheduler.policy": "fastest"},
     "scheduler.policy: 'fastest' needs this machine's prices; run `hybrid calibrate` first"),
]  # fmt: skip
SHAPES = [
    ({"shape": "smollm3"}, {}, "no shape is called 'smollm3'; did you mean 'smollm2-135m'"),
    ({"shape": "minilm"}, {}, "no shape is called 'minilm'; known: smollm2-135m"),
    ({"shape": {"like": "gpt2", "layer": 1}}, {}, "unknown key 'layer'; did you mean 'layers'"),
    ({"shape": {"family": "llama", "layers": 1}}, {}, "heads.* missing; give all of hidden, "),
    ({"shape": {"like": "gpt2", "layers": 1, "vocabulary": 2}}, {}, "vocabulary: 2; give at least"),
    ({"shape": {"like": "gpt2", "layers": 1, "vocabulary": 512}}, {"chat": True},
     "a shape has no chat template; set generation.chat: false"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), SETTINGS + PROTOCOLS)
def test_settings_that_cannot_work(changes, said):
    found = refused(changed(generation_content(), changes))
    assert re.search(said, found), found


@pytest.mark.parametrize(("model", "settings", "said"), SHAPES)
def test_shapes_that_cannot_work(model, settings, said):
    content = generation_content(**{"chat": False, **settings}) | {
        "model": {**model, "embedding": "private"}
    }
    found = refused(content)
    assert re.search(said, found), found


def test_a_private_table_is_for_decoders(tmp_path):
    path = write_tiny_config(tmp_path)
    with pytest.raises(ConfigError, match="'private' is for decoders; use public_table"):
        library.load(path, set=["model.embedding=private"])


def test_conversations_that_would_fail_too_often(monkeypatch):
    config = generation_config()
    public = load_generator(config).public
    likely = plan_generation(config, public).announced_risk().failure_probability
    monkeypatch.setattr(planning, "MAX_FAILURE_PROBABILITY", likely / 2)
    with pytest.raises(ConfigError, match=r"exceeds .*; lower generation.positions"):
        plan_generation(config, public)


# -- model files --------------------------------------------------------------------------------


def gguf_refused(path: Path) -> str:
    changes = {"model.path": str(path), "generation.chat": False, "generation.positions": 20}
    return refused(changed(generation_content(), changes))


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return gguf_tensors("llama", written("llama", tmp_path_factory.mktemp("made")))


def test_gguf_files_that_are_not_read(tensors, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", "llama", tensors, gguf_settings())
    cut, unknown = tmp_path / "cut.gguf", tmp_path / "unknown.gguf"
    cut.write_bytes(whole.read_bytes()[:-1000])
    assert f"{cut}: not a whole GGUF file" in gguf_refused(cut)
    unknown.write_bytes(whole.read_bytes().replace(b"llama", b"mamba"))
    assert f"{unknown}: general.architecture is 'mamba'; supported" in gguf_refused(unknown)
    assert "the model has 31 rows for them; use files that belong together" in gguf_refused(whole)
    bare = write_gguf(tmp_path / "bare.gguf", "llama", tensors)
    assert f"{bare}: no setting 'tokenizer.ggml.model'" in gguf_refused(bare)
    odd = tensors | {"output_norm.weight": np.ones(30, np.int8)}
    odd_file = write_gguf(tmp_path / "odd.gguf", "llama", odd, gguf_settings())
    assert (
        f"{odd_file}: output_norm.weight is quantised as I8, which is not read; take"
        in gguf_refused(odd_file)
    )


def with_template(folder: Path, template: str | None, family="llama") -> Path:
    """The small model with another chat template."""
    shutil.copytree(DECODERS / family, folder)
    place = folder / "tokenizer_config.json"
    settings = json.loads(place.read_text())
    del settings["chat_template"]
    place.write_text(json.dumps(settings | ({"chat_template": template} if template else {})))
    return folder


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'user' and m['role'] != 'assistant' %}{{ OTHERS }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)


def test_a_model_without_a_chat_template(tmp_path):
    folder = with_template(tmp_path / "bare", None)
    content = generation_content(model={"path": str(folder)})
    assert "has no chat template; " in (found := refused(content))
    assert "generation.chat: false" in found
    config = checked(changed(content, {"generation.chat": False}), Path("tiny.yaml"))
    assert plan_generation(config, load_generator(config).public).model.prefix.size == 0


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ("raise_exception('no role system')", "refuses these messages (no role system)"),
        ("''", "does not write a message of role 'system'; remove it (generation.system)"),
    ],
)
def test_a_template_without_a_system_role(tmp_path, others, said):
    folder = with_template(tmp_path / "model", NO_SYSTEM.replace("OTHERS", others))
    content = generation_content(model={"path": str(folder)}, system="Be kind.")
    found = refused(content)
    assert said in found
    assert str(folder) in found
    config = checked(changed(content, {"generation.system": GONE}), Path("tiny.yaml"))
    assert load_generator(config).public.prefix.size > 0


# -- prompts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", ""], "prompt: empty; give at least one word"),
        (["--prompt", "fine", "--prompt", " \n"], "prompt: empty; give at least one word"),
        (["--prompt", "fine", "--prompt", "word " * 80], "of the announced 64 are left; shorten"),
        (["--prompt", "fine", "--conversation", "--prompt", "word " * 80], "raise generation.pos"),
        (["--prompt", "fine", "--max-new-tokens", "5"], "max_new_tokens: 5; the config announces 1 "
         "to 4: raise generation.max_new_tokens"),
        (["--prompt", "fine", "--max-new-tokens", "0"], "max_new_tokens: 0; the config announces"),
        (["--prompt", "bad \udcff"], "character U+DCFF is not in the model's vocabulary; remove"),
        ([], "texts: no file is named; add one or pass --prompt"),
        (["--prompt", "fine", "--out", "/proc/none"], "--out /proc/none: cannot be written"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["generate", "query"])
def test_prompts_are_refused_before_anything_runs(tmp_path, monkeypatch, command, arguments, said):
    def never(*_: object) -> None:
        raise AssertionError("a session was opened")

    for kind in (LocalGeneration, RemoteGeneration):
        monkeypatch.setattr(kind, "__enter__", never)
    config = write_generation_config(tmp_path)
    code, output = called(command, config, arguments, tmp_path)
    assert code == 2, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("hybrid: ")
    assert said in last


def called(command: str, config: Path, arguments: list[str], cwd: Path) -> tuple[int, str]:
    """In this process, as `run` does: what is refused never waits for a peer."""
    to = NOWHERE if command == "query" else ()
    return run(command, config, *to, *arguments, cwd=cwd, waits=False)


@pytest.mark.parametrize(
    ("command", "arguments", "dealer", "said"),
    [
        ("run", ["--text", "a"], False, "a decoder answers prompts; use hybrid generate"),
        ("query", ["--text", "a"], False, "--text would be ignored: .* decoder, which takes --pro"),
        ("query", ["--prompt", "a", "--truncate"], False, "--truncate would be ignored"),
        (
            "query",
            ["--prompt", "a"],
            True,
            "mpc.correlations: .* only `hybrid generate` starts; ch",
        ),
        ("serve", ["--listen", "tcp://127.0.0.1:*"], True, "only `hybrid generate` starts; choose"),
        ("plan", ["--tokens", "8"], False, "model.tokens would be ignored beside generation"),
    ],
)
def test_commands_that_are_not_for_it(tmp_path, command, arguments, dealer, said):
    config = write_generation_config(tmp_path, dealer=dealer)
    code, output = called(command, config, arguments, tmp_path)
    assert code == 2
    (line,) = output.strip().splitlines()
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("generate", ["--prompt", "a"], "generation: missing, so this is no run that answers"),
        ("query", ["--prompt", "a"], "--prompt would be ignored: .* encoder, which takes --text"),
        ("query", ["--text", "a", "--max-new-tokens", "3"], "--max-new-tokens would be ignored"),
        ("query", ["--text", "a", "--conversation"], "--conversation would be ignored"),
    ],
)
def test_encoders_answer_no_prompts(tmp_path, command, arguments, said):
    code, output = called(command, write_tiny_config(tmp_path), arguments, tmp_path)
    assert code == 2
    assert re.search(said, output.strip().splitlines()[-1]), output


def test_prompts_are_texts():
    session = library.local(generation_config())
    for wrong in (b"bytes", None, ["a"], 7):
        with pytest.raises(UsageError, match=f"generate: {type(wrong).__name__}; give a text"):
            next(session.generate(wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="use generate"):
        session.embed(["a"])
    with pytest.raises(UsageError, match="no conversation to go on with; begin with a prompt"):
        next(session.generate("a", goes_on=True))
    with pytest.raises(UsageError):
        next(session.generate("never opened"))


# -- two parties that differ ----------------------------------------------------------------------


def differ(server, client) -> tuple[str, str]:
    """Both ends of a session that neither can begin."""
    found = both_ends(server, client)
    for error in found:
        assert isinstance(error, HandshakeError), found
        assert "\n" not in str(error)
    return str(found[0]), str(found[1])


def test_a_prefix_that_is_not_shared_is_named(tmp_path):
    other = with_template(tmp_path / "other", NO_SYSTEM.replace("OTHERS", "''"))
    clients = [generation_config(model={"path": str(other)}), generation_config("gpt2")]
    # The two small models have one tokenizer; another one merges less.
    folder = tmp_path / "tokenizer"
    shutil.copytree(DECODERS / "llama", folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["model"]["merges"] = tokens["model"]["merges"][:50]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    clients[1] = generation_config(model={"path": str(folder)})
    for client in clients:
        for said in differ(generation_config(), client):
            assert "public prefix is sha256" in said
            assert "at this party" in said


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"generation.system": "Be kind."}, "generation.system"),
        ({"generation.positions": 60}, "generation.positions"),
        ({"generation.temperature": 1.0, "generation.top_k": 3}, "generation.temperature"),
        ({"generation.stop_early": False}, "generation.stop_early"),
        ({"generation.rows": 31}, "generation.rows"),
        ({"protocols.multiply": "cheapest"}, "protocols.multiply"),
        ({"model.embedding": "public_table", "protocols.embedding": GONE}, "protocols.embedding"),
    ],
)
def test_settings_that_differ_are_named(changes, key):
    content = changed(yaml.safe_load(yaml.safe_dump(generation_content())), changes)
    for said in differ(generation_config(), checked(content, Path("other.yaml"))):
        assert f"config key {key}" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: {k: v for k, v in parts.items() if k != "schedule"},
         "description: 'schedule' is unknown to the server; install the same release at both"),
        (lambda parts: parts | {"later": None}, "description: 'later' is unknown to the client"),
        (lambda parts: list(parts), "description is malformed; same version"),
    ],
)  # fmt: skip
def test_descriptions_of_another_release_are_refused_by_what_differs(monkeypatch, change, said):
    send = generating.send_public
    monkeypatch.setattr(generating, "send_public", lambda to, parts: send(to, change(parts)))
    _, error = both_ends(generation_config(), generation_config())
    assert isinstance(error, FrameError)
    assert said in str(error)


def test_parts_of_a_description_are_shown_harmlessly():
    parts = {"model": 1, "embedding": 2}
    assert checked_description(parts, parts.keys()) == parts
    with pytest.raises(FrameError, match="unknown to the client") as error:
        checked_description(parts | {"\x1b[2J\n" + "x" * 1000: 0}, parts.keys())
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300
