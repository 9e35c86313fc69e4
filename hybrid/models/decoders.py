"""Decoders of files, in the clear: weights, tokenizer, plain answers."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from hybrid.config.files import NoTextError, read_text, reason
from hybrid.models.architecture import Architecture, read_model_config
from hybrid.models.causal import Cache
from hybrid.models.chat_template import ChatTemplate
from hybrid.models.decoder import AnyDecoder, DecoderWeights
from hybrid.models.decoder_tokenizing import DecoderTokenizer
from hybrid.models.gguf_file import GgufFile
from hybrid.models.gguf_tokenizer import gguf_end_ids, gguf_special_tokens, gguf_tokenizer
from hybrid.models.gpt2 import Gpt2
from hybrid.models.llama import Llama
from hybrid.models.ranges import Observer
from transport.errors import ConfigError
from transport.foreign import cut, shown

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
    raise ConfigError(f"{place} is {shown(kind)}; supported are {', '.join(types)}")


def _gguf(path: Path) -> GgufFile | None:
    """The GGUF file that a path means, if it means one."""
    if path.is_file():
        return GgufFile(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: missing; name a GGUF file or a folder in Hugging Face layout")
    files = sorted(path.glob("*.gguf"))
    if not files or (path / "config.json").is_file():
        return None
    if len(files) > 1:
        raise ConfigError(f"{path}: holds {len(files)} GGUF files; name one of them")
    return GgufFile(files[0])


# -- tokenizers -----------------------------------------------------------------------------------


def read_tokenizer(path: Path) -> DecoderTokenizer:
    """What the client needs of the same paths: no weights, but for those beside it in a GGUF."""
    file = _gguf(path)
    if file is not None:
        place, source = str(file.path), file.setting("tokenizer.chat_template", str, "")
        template = ChatTemplate(source, gguf_special_tokens(file), place) if source else None
        return DecoderTokenizer(gguf_tokenizer(file), template, gguf_end_ids(file), place)
    settings = _optional_json(path / "tokenizer_config.json")
    tokens = {
        key: token if isinstance(token, str) else token["content"]
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if isinstance(token := settings.get(key), str)
        or (isinstance(token, dict) and isinstance(token.get("content"), str))
    }
    source = _template_source(path, settings)
    template = ChatTemplate(source, tokens, str(path)) if source else None
    tokenizer = _read_tokenizer_json(path / "tokenizer.json")
    ends = _end_ids(path)
    end = tokenizer.token_to_id(tokens.get("eos_token", ""))
    return DecoderTokenizer(tokenizer, template, ends if end is None else ends | {end}, str(path))


def _read_tokenizer_json(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ConfigError(f"{path}: missing; name a folder in Hugging Face layout")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises bare exceptions.
        raise ConfigError(f"{path}: not a tokenizer ({cut(str(error))}); fetch it again") from None


def _template_source(path: Path, settings: Mapping[str, Any]) -> str | None:
    """A file of its own goes before the settings; of several named ones the default."""
    file, found = path / "chat_template.jinja", settings.get("chat_template")
    if file.is_file():
        return _template_text(file)
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _template_text(file: Path) -> str:
    """Of a file of its own; a byte-order mark would be a part of every prompt."""
    try:
        if file.read_bytes().startswith(codecs.BOM_UTF8):
            raise NoTextError("it begins with a byte-order mark; remove it")
        return read_text(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({reason(error)})") from None


def _end_ids(path: Path) -> frozenset[int]:
    """Of the settings for generation, else of the model's."""
    for name in ("generation_config.json", "config.json"):
        found = _optional_json(path / name).get("eos_token_id")
        values = found if isinstance(found, list) else [found]
        ids = frozenset(i for i in values if type(i) is int and i >= 0)
        if ids:
            return ids
    return frozenset()


def _optional_json(path: Path) -> Mapping[str, Any]:
    """A table, empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({cut(str(error))}); fetch it again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a table of settings; fetch it again")
    return found
