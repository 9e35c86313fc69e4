"""Decoders of files, in the clear: weights, tokenizer, plain answers."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.architecture import Architecture, read_model_config
from hybrid.models.causal import Cache
from hybrid.models.chat_template import ChatTemplate
from hybrid.models.decoder import AnyDecoder, DecoderWeights
from hybrid.models.decoder_tokenizing import DecoderTokenizer
from hybrid.models.gguf_file import GgufFile
from hybrid.models.gguf_tokenizer import gguf_end_ids, gguf_special_tokens, gguf_tokenizer
from hybrid.models.gpt2 import Gpt2
from hybrid.models.llama import Llama
from hybrid.models.model_files import check_file, names_in, read_text
from hybrid.models.ranges import Observer
from hybrid.models.sentence_folder import optional_table, transformer_folder
from hybrid.models.tokenizer_files import tokenizer_of_json
from transport.errors import ConfigError

DECODERS: tuple[AnyDecoder, ...] = (Llama(), Gpt2())
"""Every family of decoders."""
Choose = Callable[[NDArray[np.float64]], int]
"""The next token from logits (vocabulary,)."""


def unseen(_edge: str, _tensor: Tensor) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class DecoderModel:
    """A decoder in the clear."""

    family: AnyDecoder
    architecture: Architecture
    weights: DecoderWeights
    origin: str
    """Where the weights come from, for the report."""

    def logits(
        self,
        token_ids: NDArray[np.int64],
        cache: Cache | None = None,
        see: Observer = unseen,
        dtype: torch.dtype = torch.float32,
    ) -> NDArray[np.float64]:
        """Of every token, (tokens, vocabulary), after those of the cache, which grows by them."""
        cache = Cache() if cache is None else cache
        self.architecture.check_tokens(cache.length + len(token_ids))
        found: Tensor = self.family.plain_logits(
            self.weights, self.architecture, token_ids, cache, see, dtype
        )
        values: NDArray[np.float64] = found.double().numpy()
        return values

    def generate(
        self,
        token_ids: NDArray[np.int64],
        choose: Choose,
        end_ids: frozenset[int] = frozenset(),
        cache: Cache | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[int]:
        """Tokens one by one until one of `end_ids`, which is left out, or the last position."""
        cache = Cache() if cache is None else cache
        logits = self.logits(token_ids, cache, dtype=dtype)[-1]
        while (token := choose(logits)) not in end_ids:
            yield token
            if cache.length == self.architecture.positions:
                return
            logits = self.logits(np.array([token]), cache, dtype=dtype)[-1]

    def __repr__(self) -> str:
        return f"<DecoderModel: {self.origin}: {self.architecture.line()}>"


def is_decoder(path: Path) -> bool:
    """Whether a path holds a model that answers prompts; `ConfigError` where it holds none."""
    if _gguf(path) is not None:
        return True
    kind = read_model_config(transformer_folder(path)).get("model_type")
    return any(kind in family.model_types for family in DECODERS)


def read_decoder(path: Path) -> DecoderModel:
    """Of a GGUF file, a folder that holds one, or a folder in Hugging Face layout."""
    file, origin = _gguf(path), f"weights of {path.name}"
    if file is not None:
        types = {kind: family for family in DECODERS for kind in family.gguf_types}
        family = _family(types, file.architecture, f"{file.path}: general.architecture")
        architecture = family.read_gguf_architecture(file)
        weights = family.read_gguf_weights(file, architecture)
        return DecoderModel(family, architecture, weights, origin)
    raw, place = read_model_config(path), str(path / "config.json")
    types = {kind: family for family in DECODERS for kind in family.model_types}
    family = _family(types, raw.get("model_type"), f"{place}: model_type")
    architecture = family.read_architecture(raw, place)
    return DecoderModel(family, architecture, family.read_weights(path, architecture), origin)


def _family(types: Mapping[str, AnyDecoder], kind: object, place: str) -> AnyDecoder:
    if isinstance(kind, str) and kind in types:
        return types[kind]
    raise ConfigError(f"{place} is {kind!r}; supported are {', '.join(types)}")


def _gguf(path: Path) -> GgufFile | None:
    """The GGUF file that a path means, if it means one."""
    if not os.path.isdir(path):
        check_file(path, "name a GGUF file or a folder in Hugging Face layout", "GGUF file")
        return GgufFile(path)
    names = names_in(path)
    files = sorted(name for name in names if name.endswith(".gguf"))
    if not files or "config.json" in names:
        return None
    if len(files) > 1:
        raise ConfigError(f"{path}: holds {len(files)} GGUF files; name one of them")
    return GgufFile(path / files[0])


# -- tokenizers -----------------------------------------------------------------------------------


def read_tokenizer(path: Path) -> DecoderTokenizer:
    """What the client needs of the same paths: no weights, but for those beside it in a GGUF."""
    file = _gguf(path)
    if file is not None:
        place, source = str(file.path), file.setting("tokenizer.chat_template", str, "")
        template = ChatTemplate(source, gguf_special_tokens(file), place) if source else None
        return DecoderTokenizer(gguf_tokenizer(file), template, gguf_end_ids(file), place)
    settings = optional_table(path / "tokenizer_config.json")
    tokens = {
        key: token if isinstance(token, str) else token["content"]
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if isinstance(token := settings.get(key), str)
        or (isinstance(token, dict) and isinstance(token.get("content"), str))
    }
    source = _template_source(path, settings)
    template = ChatTemplate(source, tokens, str(path)) if source else None
    tokenizer = tokenizer_of_json(path / "tokenizer.json")
    ends = _end_ids(path)
    end = tokenizer.token_to_id(tokens.get("eos_token", ""))
    return DecoderTokenizer(tokenizer, template, ends if end is None else ends | {end}, str(path))


def _template_source(path: Path, settings: Mapping[str, Any]) -> str | None:
    """A file of its own goes before the settings; of several named ones the default."""
    file, found = path / "chat_template.jinja", settings.get("chat_template")
    if file.name in names_in(path):
        text = read_text(file)
        if file.read_bytes().startswith(codecs.BOM_UTF8):
            raise ConfigError(
                f"{file}: begins with a byte-order mark, which other readers make part of every "
                "prompt; remove it"
            )
        return text
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _end_ids(path: Path) -> frozenset[int]:
    """Of the settings for generation, else of the model's."""
    for name in ("generation_config.json", "config.json"):
        found = optional_table(path / name).get("eos_token_id")
        values = found if isinstance(found, list) else [found]
        ids = frozenset(i for i in values if type(i) is int and i >= 0)
        if ids:
            return ids
    return frozenset()
