"""`hybrid doctor --model`: what a model's folder is, what of it is used, ignored and refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid.config.loading import Config, checked
from hybrid.models.architecture import read_model_config
from hybrid.models.decoders import is_decoder, read_tokenizer
from hybrid.models.generator import load_prompts
from hybrid.models.generator_loading import load_generator
from hybrid.models.loading import load_model, says_head, text_encoder, unread_tensors
from hybrid.models.model_files import cut
from hybrid.models.poolings import POOLINGS
from hybrid.models.range_check import RangeCheck, Reached
from hybrid.models.ranges import default_sentences, observed_ranges
from hybrid.models.sentence_folder import transformer_folder
from hybrid.models.text_settings import TextSettings, read_text_settings
from hybrid.models.tokenizing import TextEncoder
from hybrid.reports.terminal import plain
from transport.errors import ConfigError

_TOKENS, _POSITIONS = 32, 64
_SHOWN, _MOST = 16, 1000
"""Names of files or tensors in a line; files that are looked at."""


def report_model(console: Console, folder: Path) -> bool:
    """A line for each question; whether the model can be run, else why not is among them."""
    path = folder.expanduser().resolve()

    def say(key: str, text: str) -> None:
        console.print(plain(f"{key:<10} {text}"), highlight=False, soft_wrap=True)

    with _files_read(path) as read:
        try:
            lines = _decoder_lines(path) if is_decoder(path) else _encoder_lines(path)
            for key, text in lines:
                say(key, text)
        except ConfigError as error:
            say("refused", str(error))
            return False
        finally:
            _say_files(say, path, read)
    return True


@contextmanager
def _files_read(path: Path) -> Iterator[set[Path]]:
    """Files below a folder that are opened meanwhile."""
    found: set[Path] = set()
    watching = True

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            opened = Path(os.path.abspath(arguments[0]))
            if opened == path or path in opened.parents:
                found.add(opened)

    # A hook stays for as long as the process, which ends with the command.
    sys.addaudithook(heard)
    try:
        yield found
    finally:
        watching = False


def _say_files(say: Any, path: Path, read: set[Path]) -> None:
    if not path.is_dir():
        return
    # Models have their files there or one folder below.
    every = {
        p for pattern in ("*", "*/*") for p in islice(path.glob(pattern), _MOST) if p.is_file()
    }
    say("files", f"read: {_listed(sorted(str(p.relative_to(path)) for p in every & read))}")
    if left := sorted(str(p.relative_to(path)) for p in every - read):
        say("", f"not read: {_listed(left)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(cut, names[:_SHOWN])) + more if names else "none"


# -- encoders -------------------------------------------------------------------------------------


def _encoder_lines(path: Path) -> Iterator[tuple[str, str]]:
    raw = read_model_config(transformer_folder(path))
    yield "model", f"an encoder, model_type {cut(str(raw.get('model_type')))}"
    config = _encoder_config(path, raw)
    if not says_head(config):
        yield "head", f"not said by the folder; set model.pooling to one of {', '.join(POOLINGS)}"
        config = _encoder_config(path, raw, pooling="mean")
    model, encoder = load_model(config), text_encoder(config)
    yield (
        "sizes",
        f"{model.public.architecture.line()}, {model.public.architecture.positions} tokens",
    )
    if not config.run.model.pooling:
        yield "head", model.public.head.line
    yield "texts", _texts_line(read_text_settings(path), encoder)
    for note in dict.fromkeys((*encoder.notes, *model.notes)):
        yield "note", note
    if unread := unread_tensors(config, model):
        yield "ignored", f"tensors beside the encoder: {_listed(unread)}"
    samples = [encoder.encode(text, truncate=True) for text in default_sentences()]
    ranges = observed_ranges(model.plain, samples[::2], config.run.ranges.margin)
    halved = replace(model, public=replace(model.public, ranges=ranges))
    checks = [halved.checked(ids)[1] for ids in samples[1::2]]
    yield "ranges", _headroom(checks, "bounds from one half of the package's samples", "the other")


def _texts_line(settings: TextSettings, encoder: TextEncoder) -> str:
    parts = [f"{encoder.vocabulary} token ids"]
    if settings.limit is not None:
        parts.append(f"at most {settings.limit.tokens} tokens ({settings.limit.name})")
    parts += ["in lower case"] * settings.lower_case
    prompts = ", ".join(cut(name) for name, text in encoder.prompts.items() if text) or "none"
    return ", ".join(parts) + f"; prompts: {prompts}"


def _encoder_config(path: Path, raw: Any, **more: str) -> Config:
    """As short texts run."""
    positions = raw.get("max_position_embeddings")
    tokens = min(_TOKENS, positions - 2) if type(positions) is int and positions > 2 else _TOKENS
    model = {"tokens": tokens, "embedding": "public_table", **more}
    return _checked(path, model, {"ckks": {"parameters": "n8192_q88", "baby_steps": "auto"}})


def _checked(path: Path, model: dict[str, Any], more: dict[str, Any]) -> Config:
    mpc = {"fraction_bits": 16} | ({"output_bits": 6} if "ckks" in more else {})
    run = {"name": "doctor", "model": {"path": str(path), **model}, "mpc": mpc}
    rest = {"ranges": {"margin": 2.0}, "scheduler": {"policy": "least_traffic"}}
    return checked({**run, **rest, **more}, Path("doctor"))


def _headroom(checks: Sequence[RangeCheck], what: str, whom: str) -> str:
    """The bound that was reached most."""
    nearest = [check.nearest for check in checks if check.nearest is not None]
    worst: Reached = max(nearest, key=lambda one: one.times)
    kind = "hold" if worst.times <= 1 else "DO NOT HOLD"
    return (
        f"{kind}: {what}, twice as wide, are reached by {whom} to {worst.times:.0%} ({worst.edge})"
    )


# -- decoders -------------------------------------------------------------------------------------


def _decoder_lines(path: Path) -> Iterator[tuple[str, str]]:
    has_template = read_tokenizer(path).has_template
    yield "model", f"a decoder, with{'' if has_template else 'out'} a chat template"
    settings = {"positions": _POSITIONS, "max_new_tokens": 16, "chat": has_template}
    config = _checked(path, {}, {"generation": settings})
    prompts, generator = load_prompts(config), load_generator(config)
    public = generator.public
    yield "sizes", f"{public.family.name}: {public.architecture.line()}"
    yield "prefix", f"{len(public.prefix)} public tokens before every prompt"
    if generator.outliers:
        yield "note", f"position 0 reaches far beyond others on {len(generator.outliers)} edges"

    private = [prompts.first(text).private[:_POSITIONS] for text in default_sentences()]
    checks = [generator.checked_logits(ids)[1] for ids in private]
    yield "ranges", _headroom(checks, "bounds from the package's prompts", "its sentences")
