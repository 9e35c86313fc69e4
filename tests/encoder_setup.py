"""Encoders for tests: folders as others write them, and both parties in one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hybrid.config.loading import Config
from hybrid.machine.prices import schedule_prices
from hybrid.models.loading import load_model, text_encoder
from hybrid.planning.catalog import load_catalog
from hybrid.planning.planner import make_plan
from hybrid.runtime.parties import ClientSession, ServerSession
from hybrid.testing.tiny import TEXT, write_tiny_config
from transport.local import run_both
from transport.traffic import Party

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *TEXT.split()]
SIZES = {
    "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
    "vocab_size": len(WORDS), "max_position_embeddings": 18, "type_vocab_size": 1,
}  # fmt: skip
TEXTS = [TEXT, "private inference", "small of a", "test"]


def write_tokenizer(folder: Path) -> None:
    """A word a token, a start and an end token."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def private(config: Config, texts: Sequence[str]) -> np.ndarray:
    """Answers of a session between two threads of this process, a row a text."""
    catalog, encoder = load_catalog(config.run.plugins), text_encoder(config)
    ids = [encoder.encode(text) for text in texts]
    batch = config.run.model.batch

    def role(channel):
        if channel.party is Party.SERVER:
            model = load_model(config)
            plan = make_plan(config, model.public, schedule_prices(config.run))
            session = ServerSession(config, catalog, channel)
            session.setup(model, plan.schedule)
            return len(list(session.serve()))
        session = ClientSession(config, catalog, channel)
        session.setup(encoder)
        asked = [ids[i : i + batch] for i in range(0, len(ids), batch)]
        answers = [session.query(few).values for few in asked]
        session.finish()
        return np.concatenate(answers)

    client, _, _ = run_both(role)
    return client


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Row by row."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / lengths


def write_encoder(folder: Path, kind: str = "bert", head: str = "", **changes: object) -> None:
    """A random model of transformers with its tokenizer, saved as transformers saves them.

    head: its class among `AutoModelFor...`; without one the encoder alone.
    """
    import torch
    import transformers

    torch.manual_seed(3)
    sizes = SIZES | changes
    if kind == "electra":
        sizes["embedding_size"] = sizes["hidden_size"]
    if kind == "distilbert":
        names = {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "intermediate_size": "hidden_dim",
        }
        names["num_attention_heads"] = "n_heads"
        sizes = {names.get(key, key): value for key, value in sizes.items()}
    config = transformers.AutoConfig.for_model(kind, **sizes, initializer_range=0.2)
    auto = getattr(transformers, f"AutoModel{head}")
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "LayerNorm" in name or "layer_norm" in name:
                parameter.copy_(torch.sign(torch.randn_like(parameter)) + parameter.normal_(0, 0.2))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    special = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    kinds = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(kinds))


def write_config(folder: Path, model: Path, extra: str = "", **keys: object) -> Path:
    """A config of a fixed plan for this model; keys: of its table `model`."""
    path = write_tiny_config(folder, model=model, correlations="softspoken", extra=extra)
    given = "".join(f", {key}: {json.dumps(value)}" for key, value in keys.items())
    text = path.read_text().replace(", pooling: mean, normalize: true", given)
    path.write_text(text)
    (folder / "samples.txt").write_text("\n".join([*TEXTS, "of of of a small inference", "a"]))
    return path
