"""Settings of decoders in GGUF files, and their heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid.models.checkpoint import Checkpoint
from hybrid.models.gguf_file import GgufFile
from hybrid.models.settings import read_sizes, require
from hybrid.models.weights import Array
from transport.errors import ConfigError
from transport.foreign import shown


@dataclass(frozen=True, slots=True)
class GgufNames:
    """Settings of one architecture in GGUF files, below its name."""

    sizes: Mapping[str, str]
    """Our names of sizes to theirs."""
    optional: tuple[str, ...]
    """Others that are read."""
    harmless: Mapping[str, Any]
    """Others that may be there with this value alone."""

    def read(self, file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sizes by our names, and all settings; `ConfigError` where one would be ignored."""
        settings, place = file.settings_below(f"{file.architecture}."), str(file.path)
        known = {*self.sizes.values(), *self.optional}
        for key in sorted(settings.keys() - known):
            if key not in self.harmless or settings[key] != self.harmless[key]:
                raise ConfigError(
                    f"{place}: {file.architecture}.{key} is {shown(settings[key])}, which is not "
                    "computed; use a model without it"
                )
        values = read_sizes(settings, place, self.sizes)
        values["vocabulary"] = file.shape("token_embd.weight")[0]
        require(settings, place, "vocab_size", values["vocabulary"], None)
        return values, settings


def head_table(file: Checkpoint | GgufFile, name: str, words: Array, tied: bool) -> Array:
    """The head (vocabulary, hidden); a tied one may be in the file once more, if it is the same."""
    if not tied:
        return file.take(name, words.shape)
    if name in file and not np.array_equal(file.take(name, words.shape), words):
        raise ConfigError(
            f"{file}: {name} is not the embedding, but the settings say that the head is; set "
            "tie_word_embeddings to false"
        )
    return words
