"""The YAML description of one run, key by key: what each says and what it allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from transport.link import LinkModel

LINK_PROFILES = {
    "lan": LinkModel("lan", 1e9, 0.3e-3),
    "wan1": LinkModel("wan1", 400e6, 4e-3),
    "wan2": LinkModel("wan2", 100e6, 4e-3),
    "wan3": LinkModel("wan3", 100e6, 80e-3),
}
"""Network profiles of the field; bandwidth each direction, one-way latency."""


class Strict(BaseModel):
    """A table that refuses unknown keys and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ShapeConfig(Strict):
    """Sizes of a model with random weights; what is given replaces that of `like`."""

    like: str | None = None
    """A shape that a family names."""
    family: str | None = None
    """Of a shape that is like no other; bert, if not given."""
    __pydantic_extra__: dict[str, int] = Field(init=False)

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    def sizes(self) -> dict[str, int]:
        """Those that are given, by names that the family knows."""
        return dict(self.__pydantic_extra__)


class ModelConfig(Strict):
    """Which model, and what of it is public."""

    path: str | None = None
    """Folder in Hugging Face layout, relative to the config file; where it does not exist, a model
    of this folder's name that `hybrid fetch` keeps for all configs."""
    shape: str | ShapeConfig | None = None
    """Instead of a path: random weights of this shape, for studies of cost."""
    tokens: int = Field(default=0, ge=1, le=512)
    """Encoders: every input is padded to this many tokens; longer ones are refused."""
    batch: int = Field(default=1, ge=1, le=64)
    """Texts of one request; one with fewer repeats its first, which the server cannot tell. Of a
    decoder: prompts that are answered in the same passes."""
    embedding: Literal["public_table", "private"] = "private"
    """Whether the client has the embedding table. Private ones are for decoders, where it is the
    default."""
    pooling: str = ""
    """Encoders: how a text's rows become one; none given: what the folder says."""
    normalize: bool | None = None
    """Encoders: whether the client scales the opened embedding to unit length; none given: what the
    folder says."""
    pairs: bool = False
    """Encoders: whether every text is two, with a tab between, as tasks on pairs of sentences have
    them."""
    prompt: str | None = None
    """Encoders: name of one of the folder's prompts, which stands before every text; none: the
    folder's default. The parties may differ in it."""

    @model_validator(mode="after")
    def _one_model(self) -> ModelConfig:
        if (self.path is None) == (self.shape is None):
            raise ValueError("give either path, a model folder, or shape, for random weights")
        if self.prompt is not None and self.shape is not None:
            raise ValueError("prompt would be ignored, since a shape has none; remove it")
        return self


class GenerationConfig(Strict):
    """Makes the run one of a decoder that answers prompts."""

    positions: int = Field(ge=2, le=2048)
    """Private positions of a conversation: prompts and answers together."""
    max_new_tokens: int = Field(ge=1, le=2048)
    """Most tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0, le=1024)
    """Of sampling; 0: greedy."""
    top_k: int | None = Field(default=None, ge=1, le=256)
    """Sampling: among the k largest."""
    top_p: float | None = None
    """Refused: sorting all probabilities on shares is not there."""
    chat: bool = True
    """Whether prompts are messages of the model's chat template; else they are continued."""
    system: str | None = None
    """Chat: message before the first prompt, public; none: what the template says by itself."""
    stop_early: bool = True
    """Whether an answer ends with the model's end token, which shows its length to the server; else
    every answer runs to `max_new_tokens`."""
    rows: int = Field(default=64, ge=1, le=256)
    """Rows of linear layers that are prepared at once; what is left serves later prompts."""
    first_rows: int = Field(default=0, ge=0, le=128)
    """Of a batch that a prompt waits for, where so many are enough; dearer by the row, and keys of
    its own. 0: as `rows`."""
    ahead_tokens: int = Field(default=16, ge=0, le=256)
    """Tokens to come, of prompts and answers, whose correlations are made while nobody asks; 0:
    none. More take memory at both parties."""
    tokens_at_once: int = Field(default=8, ge=1, le=64)
    """Tokens of an answer whose correlations are made at once where none are there: whole
    ciphertexts serve them together, and the first of them waits for all."""
    prompt_bucket: int = Field(default=8, ge=1, le=16)
    """The server sees the length of a conversation's first prompt rounded up to a multiple of this;
    1: as it is."""

    def padded(self, tokens: int) -> int:
        """Rows of the pass that reads a first prompt of so many tokens."""
        return -(-tokens // self.prompt_bucket) * self.prompt_bucket

    @model_validator(mode="after")
    def _sampling(self) -> GenerationConfig:
        if self.prompt_bucket & (self.prompt_bucket - 1):
            raise ValueError(f"prompt_bucket {self.prompt_bucket}; use 1, 2, 4, 8 or 16")
        if self.top_p is not None:
            raise ValueError(
                f"top_p {self.top_p:g} is not supported: the smallest set of that mass is not "
                "found exactly on shares; use top_k"
            )
        if self.temperature == 0 and self.top_k is not None:
            raise ValueError(
                "top_k would be ignored, since temperature 0 is greedy; remove it or give a "
                "temperature"
            )
        if 0 < self.temperature < 2.0**-10:
            raise ValueError(
                f"temperature {self.temperature:g} is too small; use 2^-10 or more, or 0 for greedy"
            )
        if self.system is not None and not self.chat:
            raise ValueError("system would be ignored without chat; remove it or set chat: true")
        if self.max_new_tokens >= self.positions:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens} leaves no position for a prompt; positions "
                f"is {self.positions}"
            )
        if self.first_rows >= self.rows:
            raise ValueError(
                f"first_rows {self.first_rows} are no fewer than rows, {self.rows}; lower it, or "
                "leave it out"
            )
        if self.prompt_bucket + self.max_new_tokens - 1 > self.positions:
            raise ValueError(
                f"prompt_bucket {self.prompt_bucket} and max_new_tokens {self.max_new_tokens} need "
                f"{self.prompt_bucket + self.max_new_tokens - 1} positions, positions is "
                f"{self.positions}; lower one of them or raise it"
            )
        return self


class CkksConfig(Strict):
    """Homomorphic engine."""

    parameters: str
    """Name of a 128-bit parameter set, see `he_linear.ckks.parameters`."""
    baby_steps: Literal["auto", 2, 4, 8, 16, 32, 64]
    """Rotations kept per input ciphertext; also decides which rotation keys are made. "auto" takes
    what costs least for each layer."""
    exact: bool = False
    """Whether results of ciphertexts come back without failures of the lift, for a short OT a
    coefficient and a round."""
    linear_phase: Literal["online", "offline"] | None = None
    """With `protocols`: whether linear layers meet their ciphertexts before the input is known."""


class MpcConfig(Strict):
    """Interactive engine."""

    fraction_bits: int = Field(ge=16, le=16)
    """Fraction bits of every share; the protocols' error tables hold for 16."""
    output_bits: int = Field(default=6, ge=2, le=6)
    """Encoders: fraction bits that survive in the opened sum; the others carry the ciphertexts'
    noise."""
    correlations: str | None = None
    """With `protocols`: source of correlated randomness."""


class RangesConfig(Strict):
    """How bounds on every edge are found by the server."""

    sentences: str | None = None
    """Text file, one public sample a line, relative to the config; none: those of the package."""
    margin: float = Field(ge=1.0, le=64.0)
    """Largest magnitude seen is multiplied by this, then rounded up to a power of two."""


class PinConfig(Strict):
    """One fixed choice, more closely than by a protocol's name."""

    protocol: str
    multiply: str | None = None
    """Nonlinear steps: the engine of elementwise products; none given: the policy chooses."""
    prepared: bool | None = None
    """Linear steps: whether ciphertexts come before the input; none given: the policy chooses."""


class PassNames(Strict):
    """Of a decoder: one name in passes of several rows, another in those of a single row."""

    prompt: str
    token: str


class PassPins(Strict):
    """The same for pins; of passes that are not given the policy chooses."""

    prompt: str | PinConfig | None = None
    token: str | PinConfig | None = None

    @model_validator(mode="after")
    def _says_something(self) -> PassPins:
        if self.prompt is None and self.token is None:
            raise ValueError("give protocol, prompt or token")
        return self


Pin = str | PinConfig | PassPins


class SchedulerConfig(Strict):
    """Who chooses the implementation of each step, and within what limits."""

    pin: dict[str, Pin] = {}
    """By operation or step: what the policy may not choose otherwise."""

    policy: Literal["fixed", "fastest", "least_traffic", "fewest_rounds"] = "fixed"
    """fixed: what `protocols` or `schedule` names. The others choose step by step among all."""
    trust: Literal["no_dealer", "dealer_allowed"] = "no_dealer"
    """Whether a schedule may rely on a trusted dealer."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Most memory for encoded weights; none given: `runtime.weights_memory_gb`."""
    offline: Literal["forbidden", "allowed", "free"] = "allowed"
    """Work before the input is known: not in linear layers; counted; or not counted."""
    max_error: float | None = Field(default=None, gt=0)
    """Largest declared error of a nonlinear protocol against the true function, at the ranges of
    its step and by the engine that multiplies there; none given: 2^-7 for what a policy
    chooses; for what the config names 2^-3, or what a protocol declares whatever its ranges."""
    network: Literal["none", "lan", "wan1", "wan2", "wan3"] | None = None
    """What the network will be; none given: `link`."""


class CustomLink(Strict):
    """A link model with its own numbers."""

    bandwidth_mbps: float = Field(gt=0)
    latency_ms: float = Field(ge=0)


class RuntimeConfig(Strict):
    """How this machine runs the parties; not part of what they must agree on."""

    timeout_s: float = Field(default=120.0, gt=0, le=86400)
    """Longest silence of a connected peer before the run ends with an error."""
    idle_s: float = Field(default=3600.0, gt=0, le=86400)
    """How long the server waits for the next request of a connected client."""
    connect_timeout_s: float = Field(default=60.0, gt=0, le=86400)
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the server's homomorphic evaluation, one ciphertext each."""
    weights_memory_gb: float = Field(default=3.0, ge=0)
    """Memory for encoded weights; layers beyond it are encoded again at every use."""
    pin_cores: bool = True
    """`hybrid run` gives each party a core of its own when there are two."""
    curve_keys: str | None = None
    """Folder made by `hybrid keygen`, relative to the config file."""


class RunConfig(Strict):
    """One complete run."""

    name: str = Field(min_length=1, max_length=64)
    model: ModelConfig
    texts: str | None = None
    """Text file, one text a line, relative to the config; only the client opens it."""
    generation: GenerationConfig | None = None
    """Given: a decoder answers prompts, which are the lines of `texts`."""
    ckks: CkksConfig = CkksConfig(parameters="n8192_q88", baby_steps="auto")
    mpc: MpcConfig
    protocols: dict[str, str | PassNames] | None = None
    """Which registered implementation carries each operation, under the policy `fixed`."""
    schedule: str | None = None
    """Instead: a file that `hybrid plan --save` wrote, relative to the config."""
    ranges: RangesConfig
    link: Literal["none", "lan", "wan1", "wan2", "wan3"] | CustomLink = "none"
    scheduler: SchedulerConfig = SchedulerConfig()
    plugins: list[str] = []
    """Importable modules with PROTOCOLS, PACKINGS or MODELS tuples."""
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _one_kind(self) -> RunConfig:
        """Keys of encoders are all there, or none of them beside `generation`."""
        of_encoders = {
            "model.tokens": "tokens" in self.model.model_fields_set,
            "model.pooling": "pooling" in self.model.model_fields_set,
            "model.normalize": "normalize" in self.model.model_fields_set,
            "model.embedding": "embedding" in self.model.model_fields_set,
            "ckks": "ckks" in self.model_fields_set,
            "mpc.output_bits": "output_bits" in self.mpc.model_fields_set,
        }
        if self.generation is None:
            by_folder = ("model.pooling", "model.normalize")
            missing = [k for k, given in of_encoders.items() if not given and k not in by_folder]
            if missing:
                raise ValueError(
                    f"{missing[0]}: missing; add it, see configs/minilm.yaml for every key, or "
                    "generation for a decoder"
                )
            if self.model.embedding == "private":
                raise ValueError(
                    "model.embedding: 'private' is for decoders; use public_table, or add "
                    "generation"
                )
            return self
        del of_encoders["ckks"], of_encoders["model.embedding"]
        of_encoders["model.prompt"] = self.model.prompt is not None
        of_encoders["ckks.linear_phase"] = self.ckks.linear_phase is not None
        given = [key for key, is_given in of_encoders.items() if is_given]
        if given:
            raise ValueError(f"{given[0]} would be ignored beside generation; remove it")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> RunConfig:
        """One of protocols, schedule and policy says what runs; the others have no say."""
        policy = self.scheduler.policy
        named = {"protocols": self.protocols, "mpc.correlations": self.mpc.correlations}
        if self.generation is None:
            named["ckks.linear_phase"] = self.ckks.linear_phase
        if policy == "fixed" and self.schedule is None:
            missing = [key for key, value in named.items() if value is None]
            if missing:
                raise ValueError(
                    f"{missing[0]} missing; give all of {', '.join(named)}, or a schedule, or a "
                    "scheduler.policy other than fixed"
                )
        else:
            named["schedule"] = self.schedule if policy != "fixed" else None
            who = f"scheduler.policy {policy!r}" if policy != "fixed" else "the schedule"
            given = next((key for key, value in named.items() if value is not None), None)
            if given is not None:
                raise ValueError(
                    f"{given} would be ignored, since {who} chooses every step; remove it"
                    + ("; scheduler.pin fixes some steps" if policy != "fixed" else "")
                )
        usual, given_rules = SchedulerConfig(), self.scheduler
        changed = [n for n in SchedulerConfig.model_fields if n not in ("policy", "max_error")]
        changed = [n for n in changed if getattr(given_rules, n) != getattr(usual, n)]
        if policy == "fixed" and changed:
            raise ValueError(
                f"scheduler.{changed[0]} would be ignored, since scheduler.policy is 'fixed'; "
                "remove it or choose another policy"
            )
        return self

    def agreed(self) -> dict[str, str]:
        """What both parties must have alike, as JSON by dotted key.

        Local paths and texts are left out.
        """
        left_out = {"texts", "runtime", "ranges", "name", "schedule"}
        data = self.model_dump(mode="json", exclude=left_out)
        del data["model"]["path"], data["model"]["prompt"]
        # Steps' names hold dots, and there may be hundreds: one entry.
        data["scheduler"]["pin"] = json.dumps(data["scheduler"]["pin"], sort_keys=True)
        return dict(_flat(data, ""))

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


def _flat(data: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, sort_keys=True)
