"""The YAML description of one run, checked key by key.

Reading is strict: unknown keys are refused with a suggestion, nothing is inherited from
another file, and every key that changes what the two parties compute enters `public_hash`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from transport.errors import ConfigError
from transport.link import LinkModel

LINK_PROFILES = {
    "lan": LinkModel("lan", 1e9, 0.3e-3),
    "wan1": LinkModel("wan1", 400e6, 4e-3),
    "wan2": LinkModel("wan2", 100e6, 4e-3),
    "wan3": LinkModel("wan3", 100e6, 80e-3),
}
"""Network profiles of the field; bandwidth each direction, one-way latency."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


SHAPES: dict[str, dict[str, int]] = {
    "minilm-l6": {"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536},
    "bert-base": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072},
    "bert-large": {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096},
}
"""Sizes of known encoders."""


class ShapeConfig(_Strict):
    """Sizes of a model with random weights; what is given replaces that of `like`."""

    like: Literal["minilm-l6", "bert-base", "bert-large"] | None = None
    hidden: int | None = Field(default=None, ge=1)
    layers: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    intermediate: int | None = Field(default=None, ge=1)
    vocabulary: int | None = Field(default=None, ge=3)
    """1024 unless given: only the size of the public table depends on it."""
    positions: int | None = Field(default=None, ge=1)


class ModelConfig(_Strict):
    """Which model, and what of it is public."""

    path: str | None = None
    """Folder in Hugging Face layout, relative to the config file."""
    shape: Literal["minilm-l6", "bert-base", "bert-large"] | ShapeConfig | None = None
    """Instead of a path: random weights of this shape, for studies of cost."""
    tokens: int = Field(ge=1, le=512)
    """Every input is padded to this many tokens; longer ones are refused."""
    batch: int = Field(default=1, ge=1, le=64)
    """Texts of one request; one with fewer repeats its first, which the server cannot tell."""
    embedding: Literal["public_table"]
    pooling: Literal["mean"]
    normalize: bool
    """Whether the client scales the opened embedding to unit length."""

    @model_validator(mode="after")
    def _one_model(self) -> ModelConfig:
        if (self.path is None) == (self.shape is None):
            raise ValueError("give either path, a model folder, or shape, for random weights")
        return self


class CkksConfig(_Strict):
    """Homomorphic engine."""

    parameters: str
    """Name of a 128-bit parameter set, see `he_linear.PARAMETER_SETS`."""
    baby_steps: Literal["auto", 2, 4, 8, 16, 32, 64]
    """Rotations kept per input ciphertext; also decides which rotation keys are made. "auto" takes
    what costs least for each layer."""
    exact: bool = False
    """Whether results of ciphertexts come back without failures of the lift, for a short OT a
    coefficient and a round."""
    linear_phase: Literal["online", "offline"]
    """Whether linear layers meet their ciphertexts before the input is known."""


class MpcConfig(_Strict):
    """Interactive engine."""

    fraction_bits: int = Field(ge=16, le=16)
    """Fraction bits of every share; the protocols' error tables hold for 16."""
    output_bits: int = Field(ge=2, le=6)
    """Fraction bits that survive in the opened sum; the others carry the ciphertexts' noise."""
    correlations: str
    """Source of correlated randomness."""


class ProtocolsConfig(_Strict):
    """Which registered implementation carries each operation."""

    linear: str
    attention: str
    gelu: str
    softmax: str
    layernorm: str
    multiply: str


class CalibrationConfig(_Strict):
    """How bounds on every edge are found by the server."""

    sentences: str | None = None
    """Text file, one public sample a line, relative to the config; none: those of the package."""
    margin: float = Field(ge=1.0, le=64.0)
    """Largest magnitude seen is multiplied by this, then rounded up to a power of two."""


class SchedulerConfig(_Strict):
    """Who chooses the implementation of each step, and within what limits."""

    policy: Literal["fixed", "fastest", "least_traffic", "fewest_rounds"] = "fixed"
    """fixed: what `protocols` names. The others choose step by step among all of the catalog."""
    trust: Literal["no_dealer", "dealer_allowed"] = "no_dealer"
    """Whether a schedule may rely on a trusted dealer."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Most memory for encoded weights; none given: `runtime.weights_memory_gb`."""
    offline: Literal["forbidden", "allowed", "free"] = "allowed"
    """Work before the input is known: not in linear layers; counted; or not counted."""
    max_error: float = Field(default=2.0**-8, gt=0)
    """Largest declared error of a nonlinear protocol against the true function."""
    network: Literal["none", "lan", "wan1", "wan2", "wan3"] | None = None
    """What the network will be; none given: `link`."""


class CustomLink(_Strict):
    """A link model with its own numbers."""

    bandwidth_mbps: float = Field(gt=0)
    latency_ms: float = Field(ge=0)


class RuntimeConfig(_Strict):
    """How this machine runs the parties; not part of what they must agree on."""

    timeout_s: float = Field(default=120.0, gt=0, le=86400)
    """Longest silence of a connected peer before the run ends with an error."""
    connect_timeout_s: float = Field(default=60.0, gt=0, le=86400)
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the server's homomorphic evaluation, one ciphertext each."""
    weights_memory_gb: float = Field(default=3.0, ge=0)
    """Memory for encoded weights; layers beyond it are encoded again at every use."""
    pin_cores: bool = True
    """`hybrid run` gives each party a core of its own when there are two."""
    curve_keys: str | None = None
    """Folder made by `hybrid keygen`, relative to the config file."""


class RunConfig(_Strict):
    """One complete run."""

    name: str = Field(min_length=1, max_length=64)
    model: ModelConfig
    texts: str | None = None
    """Text file, one text a line, relative to the config; only the client opens it."""
    ckks: CkksConfig
    mpc: MpcConfig
    protocols: ProtocolsConfig
    calibration: CalibrationConfig
    link: Literal["none", "lan", "wan1", "wan2", "wan3"] | CustomLink = "none"
    scheduler: SchedulerConfig = SchedulerConfig()
    plugins: list[str] = []
    """Importable modules with PROTOCOLS or PACKINGS tuples."""
    runtime: RuntimeConfig = RuntimeConfig()

    def public_hash(self) -> str:
        """SHA-256 of everything both parties must agree on; local paths and texts are left out."""
        agreed = self.model_dump(exclude={"texts", "runtime", "calibration", "name"})
        agreed["model"].pop("path")
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()

    def link_model(self) -> LinkModel | None:
        """The link to imitate, if any."""
        if isinstance(self.link, CustomLink):
            return LinkModel("custom", self.link.bandwidth_mbps * 1e6, self.link.latency_ms * 1e-3)
        return LINK_PROFILES.get(self.link)

    def weights_memory_gb(self) -> float:
        """Memory for encoded weights: what a schedule was made for, else this machine's."""
        given = self.scheduler.memory_gb
        scheduled = self.scheduler.policy != "fixed" and given is not None
        return given if scheduled and given is not None else self.runtime.weights_memory_gb

    def scheduled_link(self) -> LinkModel | None:
        """The network that schedules are made for."""
        network = self.scheduler.network
        return self.link_model() if network is None else LINK_PROFILES.get(network)


class LoadedConfig:
    """A checked config and where it came from."""

    def __init__(self, config: RunConfig, path: Path) -> None:
        self.run = config
        self.path = path

    def resolve(self, relative: str) -> Path:
        """A path written in the config, relative to the config file."""
        return (self.path.parent / Path(relative).expanduser()).resolve()

    @property
    def model_folder(self) -> Path:
        """The model folder; `ConfigError` when it is not one."""
        path = self.run.model.path
        folder = self.resolve(path or ".")
        if path is None or not folder.is_dir():
            raise ConfigError(
                f"{self.path}: model.path: folder {path!r} does not exist; run "
                "`make model` for the default model or name a folder in Hugging Face layout"
            )
        return folder


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping, where YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice; keep one", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_TYPES = (CustomLink.__name__, ShapeConfig.__name__)


def load_config(path: Path) -> LoadedConfig:
    """Read and check a run description."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"{path}: cannot be read ({reason}); name an existing YAML file"
        ) from None
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not valid YAML; {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys at top level; see configs/minilm.yaml"
        )
    try:
        return LoadedConfig(RunConfig.model_validate(raw), path)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _explain(error: ValidationError, path: Path) -> str:
    """First problem of a validation as one line naming place, value and remedy."""
    problems = error.errors()
    # A misspelt key also makes the right one missing; the misspelling is what helps.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), None)
    # Where a name or a table would do and a table was given, the table's problem is the one.
    first = first or next((p for p in problems if not _is_other_kind(p)), problems[0])
    keys = _keys_of(first["loc"])
    place = f"{path}: {'.'.join(keys)}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        where = f"{path}: {'.'.join(keys[:-1])}: " if keys[:-1] else f"{path}: "
        return f"{where}unknown key {keys[-1]!r}; {hint}"
    if first["type"] == "missing":
        return f"{place}: missing; add it, see configs/minilm.yaml for every key"
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}"
    return f"{place}: {first['msg'].lower()}, got {first.get('input')!r}"


def _is_other_kind(problem: Any) -> bool:
    return problem["type"] == "literal_error" and isinstance(problem["input"], dict)


def _keys_of(location: tuple[int | str, ...]) -> list[str]:
    """Keys as the file has them: where a value may be of several types, pydantic names one too."""
    keys: list[str] = []
    for key in map(str, location):
        if not key.startswith("literal[") and key not in _TYPES:
            keys.append(key)
    return keys


def _known_keys(keys: list[str]) -> list[str]:
    """Keys of the table at this place."""
    schema: Any = RunConfig
    for key in keys:
        field = schema.model_fields.get(key)
        if field is None:
            return []
        kinds = [field.annotation, *get_args(field.annotation)]
        schema = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if schema is None:
            return []
    return list(schema.model_fields)
