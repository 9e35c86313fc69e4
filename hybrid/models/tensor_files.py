"""Files of tensors in a Hugging Face folder: safetensors and PyTorch's own, whole or in shards."""

from __future__ import annotations

import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open

from hybrid.models.foreign_weights import no_weights
from hybrid.models.model_files import check_file, cut, names_in, read_json
from transport.errors import ConfigError

_CODE = re.compile(r"GLOBAL \S+|unrecognized function \S+|TorchScript")
"""How PyTorch says what it would have to run."""
_KINDS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}


class TensorSource(ABC):
    """One open file; `ConfigError` where it is not what its name says."""

    whole: ClassVar[str]
    """What the file is called that holds the whole model; that of shards adds .index.json."""
    names: tuple[str, ...]
    aliases: Mapping[str, str]
    """Names under which tensors were left out, to those under which the same ones are kept."""

    def __init__(self, path: Path, missing: str) -> None:
        """missing: what to do where there is no such file."""
        self.path = path
        check_file(path, missing)
        self.aliases = {}
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Find `names`."""

    @abstractmethod
    def form(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type, by its name, and shape of a tensor."""

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is stored."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path.name}: {len(self.names)} tensors>"


class SafetensorsFile(TensorSource):
    """Tensors stay in the file until they are read."""

    whole = "model.safetensors"

    def _open(self) -> None:
        try:
            opened: Any = safe_open(self.path, framework="pt")
            said = opened.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from None
        self._file, self.names = opened, tuple(opened.keys())
        held = set(self.names)
        # `safetensors.torch.save_model` leaves one of two shared tensors out, and says so here.
        self.aliases = {k: v for k, v in said.items() if k not in held and v in held}

    def form(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type, by its name, and shape of a tensor."""
        part = self._file.get_slice(name)
        kind = re.sub(r"^[A-Z]+(?=\d)", lambda m: _KINDS.get(m[0], m[0]), part.get_dtype())
        return kind.lower(), tuple(part.get_shape())

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is stored."""
        try:
            found: torch.Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from None
        return found

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.path}: not a safetensors file, or not all of it ({cut(str(error))}); fetch it "
            "again"
        )


class TorchFile(TensorSource):
    """A pickled table of tensors, of which no code is run; mapped where PyTorch can."""

    whole = "pytorch_model.bin"

    def _open(self) -> None:
        found = self._loaded()
        if not isinstance(found, dict):
            raise ConfigError(
                f"{self.path}: a {type(found).__name__}, not a table of tensors; write it with "
                "`save_pretrained`"
            )
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise ConfigError(
                    f"{self.path}: {cut(repr(name))} is no tensor but a {type(value).__name__}, "
                    "so this is no model by itself; write it with `save_pretrained`"
                )
        self._tensors: dict[str, torch.Tensor] = found
        self.names = tuple(found)

    def _loaded(self) -> Any:
        with warnings.catch_warnings(record=True) as said:
            # Of old forms of the file, most of which are read all the same.
            warnings.simplefilter("always")
            try:
                mapped = zipfile.is_zipfile(self.path)
                return torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
            except Exception as error:
                # PyTorch stumbles over a damaged file in whatever way comes first.
                raise self._refusal(error, [str(one.message) for one in said]) from None

    def _refusal(self, error: Exception, said: list[str]) -> ConfigError:
        code = _CODE.search(str(error))
        if code is not None:
            why = f"wants to run code ({cut(code[0].split()[-1])}), which is not done"
        elif any("pickle protocol" in words for words in said):
            why = "pickled in a newer form than PyTorch reads without running code"
        else:
            words = cut(f"{type(error).__name__}: {str(error)[:60]}")
            return ConfigError(
                f"{self.path}: not a PyTorch file, or not all of it ({words}); fetch it again"
            )
        return ConfigError(
            f"{self.path}: {why}; load it where you trust it, and write it with `save_pretrained`"
        )

    def form(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type, by its name, and shape of a tensor."""
        tensor = self._tensors[name]
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided:
            kind = f"{str(tensor.layout).removeprefix('torch.')} {kind}"
        if tensor.device.type != "cpu":
            kind = f"{kind} without values"
        return kind, tuple(tensor.shape)

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is stored."""
        return self._tensors[name].detach()


_FORMS: tuple[type[TensorSource], ...] = (SafetensorsFile, TorchFile)


def tensor_files(folder: Path) -> list[TensorSource]:
    """All files of a folder's weights, in the form that comes first of those that are there."""
    names = names_in(folder)
    for form in _FORMS:
        if form.whole in names:
            return [form(folder / form.whole, "fetch it")]
        if f"{form.whole}.index.json" in names:
            return _shards(folder / f"{form.whole}.index.json", form)
    raise no_weights(folder, names)


def _shards(index: Path, form: type[TensorSource]) -> list[TensorSource]:
    """All of them; an index must name what is there, no more and no less."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConfigError(f"{index}: not an index of shards (no weight_map); fetch it again")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(
                f"{index}: {cut(repr(name))} is no file of this folder; fetch it again"
            )
    files = sorted(set(places.values()))
    found = [form(index.parent / n, f"{index.name} names it: fetch it") for n in files]
    for file in found:
        held = set(file.names)
        named = {name for name, place in places.items() if place == file.path.name}
        if held != named:
            odd = min(held ^ named)
            raise ConfigError(
                f"{file.path}: tensor {cut(repr(odd))} is "
                f"{'not in' if odd in held else 'only in'} {index.name}; fetch both again"
            )
    return found
