"""`hybrid doctor --model`: what of a folder is used, ignored, refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.encoder_setup import write_encoder
from tests.processes import run
from tests.test_models_heads import sentence_folder


def said(folder, expected=0):
    code, output = run("doctor", "--model", folder, cwd=folder.parent)
    assert code == expected, output
    return {key: line for line in output.splitlines() for key in [line[:10].strip()]}


@pytest.mark.long
def test_what_a_folder_is(tmp_path):
    folder, _ = sentence_folder(tmp_path, ["max", torch.nn.Tanh()], normalize=True)
    (folder / "notes [red].txt").write_text("x")
    lines = said(folder)
    assert "model_type bert" in lines["model"]
    assert "hidden 24, 1 layers, 3 heads" in lines["sizes"]
    assert lines["head"].endswith("max pooling -> 24 x 10 and tanh -> unit length")
    assert "pooler.dense.bias, pooler.dense.weight" in lines["ignored"]
    assert "hold" in lines["ranges"].lower()
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors", "tokenizer.json"):
        assert name in lines["files"]
    assert "not read" in lines[""]
    assert "notes [red].txt" in lines[""]


def test_a_classifier_and_a_folder_that_says_nothing(tmp_path):
    write_encoder(tmp_path / "model", "roberta", "ForSequenceClassification")
    lines = said(tmp_path / "model")
    assert "24 x 2 -> labels LABEL_0, LABEL_1" in lines["head"]
    assert "ignored" not in lines
    write_encoder(tmp_path / "bare")
    assert "set model.pooling to one of mean" in said(tmp_path / "bare")["head"]


def test_what_is_refused_is_said_once(tmp_path):
    write_encoder(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "encoder.layer.0.adapter.weight": torch.zeros(2)}, path)
    lines = said(tmp_path / "model", 2)
    assert "encoder.layer.0.adapter.weight" in lines["refused"]
    assert "config.json" in lines["files"]
    changed = tmp_path / "model" / "config.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "model_type": "deberta-v2"}))
    assert (
        "model_type is 'deberta-v2'; supported are bert" in said(tmp_path / "model", 2)["refused"]
    )
