"""GGUF files: settings and tensors of one file, each checked as it is taken.

Format: the specification in ggml's docs/gguf.md. Rows of a matrix are outputs, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from hybrid.models.foreign_weights import refuse_left_over
from hybrid.models.model_files import check_file, cut
from hybrid.models.weights import Array
from transport.errors import ConfigError


class _Reader(GGUFReader):
    """Reads three times as fast: slices of a plain array cost less than those of a mapped one."""

    @property
    def data(self) -> Any:
        """The file's bytes, mapped."""
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = np.asarray(mapped)


class GgufFile:
    """One file; `ConfigError` names what is not there or not as it should be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        start = check_file(path, "name a GGUF file", "GGUF file")
        if not start.startswith(b"GGUF"):
            raise ConfigError(
                f"{path}: not a whole GGUF file (it starts as none does); name one, or the folder "
                "in Hugging Face layout that this lies in"
            )
        try:
            reader = _Reader(path)
        except Exception as error:
            # The reader stumbles over a damaged file in whatever way comes first.
            raise ConfigError(
                f"{path}: not a whole GGUF file ({cut(f'{type(error).__name__}: {error}')}); "
                "fetch it again"
            ) from None
        if reader.byte_order != "I":
            raise ConfigError(
                f"{path}: its numbers have the other byte order, which is not read; convert the "
                "model again on a machine like this one"
            )
        self._fields = reader.fields
        self._tensors: dict[str, ReaderTensor] = {t.name: t for t in reader.tensors}
        self._taken: set[str] = set()
        self._refuse_parts()

    def _refuse_parts(self) -> None:
        """`ConfigError` for a file that is no model by itself."""
        if (count := self.setting_or("split.count", 1)) not in (0, 1):
            raise ConfigError(
                f"{self.path}: one of {cut(repr(count))} parts of a model; put them together with "
                "`llama-gguf-split --merge`"
            )
        if (kind := self.setting_or("general.type", "model")) != "model":
            raise ConfigError(
                f"{self.path}: general.type is {cut(repr(kind))}, so this is no model; name the "
                "model's own file, with adapters merged into it"
            )

    # -- settings -------------------------------------------------------------------------------

    @property
    def architecture(self) -> str:
        """What kind of model it says it is."""
        return str(self.setting("general.architecture", str))

    def setting(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of this type; without a default it must be there."""
        field = self._fields.get(key)
        if field is None:
            if default is None:
                raise ConfigError(f"{self.path}: no setting {key!r}; convert the model again")
            return default
        value = field.contents()
        if type(value) is not kind:
            raise ConfigError(
                f"{self.path}: {key} is a {type(value).__name__}; expected a {kind.__name__}"
            )
        return value

    def setting_or(self, key: str, default: Any) -> Any:
        """A value of whatever type, not checked."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def settings_below(self, prefix: str) -> dict[str, Any]:
        """All single values whose keys start so, by what follows."""
        return {
            key.removeprefix(prefix): field.contents()
            for key, field in self._fields.items()
            if key.startswith(prefix)
        }

    # -- tensors --------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, outermost first."""
        return tuple(int(n) for n in reversed(self._found(name).shape))

    def take(self, name: str, shape: Iterable[int]) -> Array:
        """A tensor as float32, whatever it is quantised to."""
        tensor, wanted, found = self._found(name), tuple(shape), self.shape(name)
        if found != wanted:
            raise ConfigError(
                f"{self.path}: {name} has shape {found}, the settings imply {wanted}; convert the "
                "model again"
            )
        self._taken.add(name)
        kind = tensor.tensor_type
        try:
            values = dequantize(tensor.data, kind)
        except NotImplementedError:
            raise ConfigError(
                f"{self.path}: {name} is quantised as {kind.name}, which is not read; take a file "
                "of Q8_0, Q4_1 or F16"
            ) from None
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{self.path}: {name} holds values that are not finite numbers; fetch it again"
            )
        # A copy: what is not quantised is a view of the file, and read-only.
        return np.array(values.reshape(wanted), np.float32)

    def finish(self) -> None:
        """`ConfigError` where a tensor was not taken: it would be ignored."""
        refuse_left_over(self.path, self._tensors.keys() - self._taken)

    def _found(self, name: str) -> ReaderTensor:
        if name not in self._tensors:
            raise ConfigError(
                f"{self.path}: no tensor {name!r}; is this a model of architecture "
                f"{self.architecture!r}?"
            )
        return self._tensors[name]

    def __repr__(self) -> str:
        return f"<GgufFile {self.path.name}: {len(self._tensors)} tensors>"
