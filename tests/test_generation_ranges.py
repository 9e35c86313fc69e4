"""Ranges of decoders that do not hold: refused by edge, told after an answer."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import hybrid
from hybrid.models.generator_loading import load_generator
from hybrid.models.ranges import Bound, held, weight_bound
from hybrid.planning.generation import plan_generation
from tests.generation_setup import DECODERS, generation_config, write_generation_config
from tests.processes import run
from transport.errors import ConfigError


def scaled(folder, family, factors):
    """A config of the small decoder with some tensors times a factor."""
    place = folder / family
    shutil.copytree(DECODERS / family, place)
    file = place / "model.safetensors"
    tensors = load_file(file)
    for pattern, factor in factors.items():
        names = [name for name in tensors if re.search(pattern, name)]
        assert names, pattern
        for name in names:
            tensors[name] = tensors[name] * np.float32(factor)
    save_file(tensors, file, metadata={"format": "pt"})
    return generation_config(family, model={"path": str(place), "embedding": "public_table"})


@pytest.mark.parametrize(
    ("family", "factors", "edge"),
    [
        ("llama", {r"^model\.norm\.weight": 2.0**-24}, "logits"),
        ("gpt2", {r"ln_f\.": 2.0**-24}, "logits"),
        ("llama", {r"layers\.0\.mlp\.down_proj": 1e9}, "layer0.down"),
        ("gpt2", {r"h\.0\.mlp\.c_proj": 1e9}, "layer0.down"),
        ("llama", {r"layers\.0.*v_proj": 2.0**-20, r"layers\.0.*o_proj": 2.0**20}, "layer0.value"),
        ("llama", {r"layers\.1.*up_proj": 2.0**24}, "layer1.up"),
    ],
)
def test_what_fixed_point_does_not_hold_is_refused_by_edge(family, factors, edge, tmp_path):
    config = scaled(tmp_path, family, factors)
    with pytest.raises(ConfigError, match=f"^ranges: edge '{edge}' "):
        plan_generation(config, load_generator(config).public)


def test_matrices_are_scaled_by_what_is_representable():
    assert held("a.weight", weight_bound(np.full((2, 2), 3e5))).max_abs == 2.0**19
    assert held("a.weight", weight_bound(np.zeros((2, 2)))).max_abs == 1.0
    assert held("a.weight", weight_bound(np.full((2, 2), 2.0**-15))).max_abs == 2.0**-15
    for value in (1e8, 1e-9):
        with pytest.raises(ConfigError, match=r"edge 'a.weight'"):
            held("a.weight", weight_bound(np.full((2, 2), value)))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Calibrated on one prompt, without a margin."""
    samples = tmp_path_factory.mktemp("narrow") / "samples.txt"
    samples.write_text("Hi\n")
    config = generation_config(ranges={"margin": 1.0, "sentences": str(samples)})
    return load_generator(config)


def test_what_ids_reach_is_what_transformers_reaches(narrow):
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(DECODERS / "llama").float().eval()
    found, prefix, edge = [], narrow.public.prefix, "layer1.gated"
    limit = 3.5
    ranges = {**narrow.public.ranges, edge: Bound(2.0**-20, 1.0, limit)}
    tight = replace(narrow, public=replace(narrow.public, ranges=ranges))
    layer = reference.model.layers[1]
    layer.mlp.down_proj.register_forward_hook(lambda _m, inputs, _o: found.append(inputs[0][0]))
    beyond = []
    for seed in range(8):
        ids = np.random.default_rng(seed).integers(3, 200, 24)
        with torch.no_grad():
            reference(torch.from_numpy(np.concatenate([prefix, ids]))[None])
        largest = float(found.pop()[len(prefix) :].abs().max())
        logits, check = tight.checked_logits(ids)
        assert np.array_equal(logits, narrow.plain_logits(ids))
        hard = {one.edge: one for one in check.exceeded if one.of == "max_abs"}
        beyond.append(largest > limit)
        assert (edge in hard) == beyond[-1]
        if beyond[-1]:
            assert hard[edge].seen == pytest.approx(largest, rel=1e-3)
    assert any(beyond) and not all(beyond)


def test_few_prompts_are_said(narrow):
    assert "ranges were found on 1 samples" in narrow.caution
    assert load_generator(generation_config()).caution == ""


@pytest.mark.long
def test_reports_of_answers_carry_ranges(tmp_path):
    (tmp_path / "samples.txt").write_text("Hi\n")
    ranges = {"margin": 1.0, "sentences": "samples.txt"}
    path = write_generation_config(tmp_path, ranges=ranges, max_new_tokens=2)
    prompt = "WHY 17 + 25 = 42? {} [] <> ZXQV!!!"
    code, output = run("generate", path, "--prompt", prompt, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (edge,) = {row["edge"] for row in report["ranges"]["exceeded"][:1]}
    session = load_generator(hybrid.load(path))
    assert edge in session.public.used_ranges
    assert "THE RESULT MAY BE WRONG" in " ".join(output.split())
    assert "**RANGES EXCEEDED" in (tmp_path / "out" / "report.md").read_text()
    assert "1 samples" in report["ranges"]["caution"]
