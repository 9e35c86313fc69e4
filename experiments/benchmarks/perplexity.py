"""Perplexity of a text under the private decoder and under the plain one.

    python experiments/benchmarks/perplexity.py
    python experiments/benchmarks/perplexity.py experiments/benchmarks/tiny_gpt2.yaml --tokens 256
    python experiments/benchmarks/perplexity.py configs/smollm2.yaml --tokens 60 --pieces 2

The first ids of the text are read one by one behind the model's start token, whatever tokens the
private model would choose, and both parties' shares of all logits are opened here. Perplexity is
2 to the mean bits that the next id costs. Where the bound on failures refuses so many tokens in one
session, `--pieces` reads them in several, each from the start token on, private and plain alike.
One JSON line on standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.machine.environment import describe, limit_threads

limit_threads()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sessions import megabytes, note  # noqa: E402

from hybrid.config.files import read_text, reason  # noqa: E402
from hybrid.config.loading import Config, load_config  # noqa: E402
from hybrid.config.overrides import overrides_of  # noqa: E402
from hybrid.models.generator import load_prompts  # noqa: E402
from hybrid.reports.files import json_line  # noqa: E402
from hybrid.reports.generation_report import client_generation_reports  # noqa: E402
from hybrid.runtime.generation_local import LocalGeneration  # noqa: E402
from transport.errors import ConfigError, HybridError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
Floats = NDArray[np.float64]
Json = dict[str, Any]


def pieces_of(ids: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Of nearly equal length, in order."""
    return [piece for piece in np.array_split(ids, count) if len(piece) > 1]


def bits(logits: Floats, following: NDArray[np.int64]) -> Floats:
    """What each id costs under the logits (positions, vocabulary) before it."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = shifted[np.arange(len(following)), following]
    return (np.log(np.exp(shifted).sum(-1)) - chosen) / np.log(2)


def compared(private: Floats, plain: Floats, following: NDArray[np.int64]) -> Json:
    """Perplexities, and how the logits differ."""
    ours, theirs = bits(private, following), bits(plain, following)
    lengths = np.linalg.norm(private, axis=-1) * np.linalg.norm(plain, axis=-1)
    agree = private.argmax(-1) == plain.argmax(-1)
    return {
        "predicted_tokens": len(following),
        "perplexity": float(2 ** ours.mean()),
        "plain_perplexity": float(2 ** theirs.mean()),
        "bits_a_token_more": float((ours - theirs).mean()),
        "largest_bits_difference": float(np.abs(ours - theirs).max()),
        "argmax_agrees_percent": 100 * float(agree.mean()),
        "logits_cosine_min": float(((private * plain).sum(-1) / lengths).min()),
        "logits_max_abs_error": float(np.abs(private - plain).max()),
    }


def configured(path: Path, sets: Sequence[str], tokens: int) -> Config:
    """The config with room for so many tokens of a text that is no conversation."""
    own = [f"generation.positions={max(tokens, 3)}", "generation.max_new_tokens=2"]
    return load_config(
        path, overrides_of([*sets, *own, "generation.chat=false", "generation.prompt_bucket=1"])
    )


def read(config: Config, ids: NDArray[np.int64]) -> tuple[Floats, Floats, Json]:
    """Private and plain logits behind all ids but the last, and what the session took."""
    session = LocalGeneration(config)
    note(f"reading {len(ids)} ids")
    with session:
        session.force(ids)
    assert session.result is not None
    private = np.stack(session.result.logits(config.run.mpc.fraction_bits))
    (report,) = client_generation_reports(
        config, session.plan, session.result.client, session.answers
    )
    plain = session.model.plain_logits(ids)
    # What follows the last id is not known.
    return private[:-1], np.asarray(plain, np.float64)[:-1], report


def cost_of(reports: Sequence[Json]) -> Json:
    """Means a token over pieces, by their tokens after the first."""
    weights = [report["generation"]["new_tokens"] - 1 for report in reports]
    rows = [report["per_token"]["total"] for report in reports]
    return {
        "seconds_per_token": float(np.average([row["seconds"] for row in rows], weights=weights)),
        "megabytes_per_token": float(np.average([megabytes(row) for row in rows], weights=weights)),
        "failure_probability_of_session": max(r["failure_probability"] for r in reports),
        "declared_equals_measured": all(r["declared_equals_measured"] for r in reports),
    }


def measured(arguments: argparse.Namespace) -> Json:
    """All pieces."""
    try:
        text = read_text(arguments.text)
    except ValueError as error:
        raise ConfigError(f"--text {arguments.text}: cannot be read ({reason(error)})") from None
    prompts = load_prompts(configured(arguments.config, arguments.sets, arguments.tokens))
    # More characters than the ids can have: a whole book need not be encoded.
    ids = prompts.first(text[: 64 * arguments.tokens]).private[: arguments.tokens]
    pieces = pieces_of(ids, arguments.pieces)
    config = configured(arguments.config, arguments.sets, max(map(len, pieces)))
    found = [read(config, piece) for piece in pieces]
    private, plain = (np.concatenate([one[i] for one in found]) for i in (0, 1))
    following = np.concatenate([piece[1:] for piece in pieces])
    return {
        "config": config.run.name,
        "text": arguments.text.name,
        "tokens": len(ids),
        "pieces": len(pieces),
        **compared(private, plain, following),
        **cost_of([one[2] for one in found]),
        "machine": describe()["machine"],
    }


def main() -> None:
    """Measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=HERE / "tiny_llama.yaml")
    parser.add_argument(
        "--text", type=Path, default=ROOT / "tests" / "data" / "decoders" / "heldout.txt"
    )
    parser.add_argument("--tokens", type=int, default=128, help="of the text, from its start")
    parser.add_argument("--pieces", type=int, default=1, help="sessions that share the tokens")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if not 1 <= arguments.pieces <= arguments.tokens // 2:
        parser.error("--tokens and --pieces: give each piece 2 tokens or more")
    try:
        found = measured(arguments)
    except (HybridError, OSError) as error:
        parser.error(str(error))
    print(json_line(found))
    note(
        f"perplexity {found['perplexity']:.4f}, plain {found['plain_perplexity']:.4f}, "
        f"{found['bits_a_token_more']:+.1e} bits a token; the likeliest token is the plain "
        f"model's at {found['argmax_agrees_percent']:.1f} % of {found['predicted_tokens']} "
        "positions"
    )


if __name__ == "__main__":
    main()
