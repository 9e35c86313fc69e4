"""Ten prompts of different kinds: answers beside the plain model's, and what a token takes.

    python experiments/benchmarks/prompts.py
    python experiments/benchmarks/prompts.py --tokens 8 --set generation.positions=48
    python experiments/benchmarks/prompts.py experiments/benchmarks/tiny_llama.yaml --tokens 4

One JSON line a prompt and one of all together on standard output, a table on standard error.
Prompts share a session as far as the bound on failures allows; then the next one is opened. A token
is one after the first: `offline` holds its share of batches of rows and of the conversation's
correlations, and the first token waits for the prompt to be read and for all that is prepared
before. Where an answer leaves the plain model's, all tokens behind may differ, so that equal tokens
say less than logits, which are compared behind the same ids.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hybrid.machine.environment import describe, limit_threads

limit_threads()

from sessions import answered, megabytes, note  # noqa: E402

from hybrid.config.files import read_lines  # noqa: E402
from hybrid.config.loading import Config, load_config  # noqa: E402
from hybrid.config.overrides import overrides_of  # noqa: E402
from hybrid.reports.files import json_line  # noqa: E402
from transport.errors import HybridError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("offline", "online", "total")
HEAD = (
    f"{'prompt':>6} {'new':>4} {'equal':>5} {'cosine':>9} {'logit diff':>10} {'s a token':>9} "
    f"{'online s':>8} {'MB a token':>10} {'first s':>8}"
)
Json = dict[str, Any]


def row_of(report: Mapping[str, Any]) -> Json:
    """What is kept of a prompt's report."""
    answer, mean = report["generation"], report["per_token"]
    return {
        "prompt_tokens": answer["prompt_tokens"],
        "new_tokens": answer["new_tokens"],
        "equal_tokens": answer["equal_tokens"],
        "equal_choices": answer["equal_choices"],
        "text": answer["text"],
        "plain_text": answer["plain_text"],
        "logits_cosine_min": answer["logits_cosine_min"],
        "logits_max_abs_error": answer["logits_max_abs_error"],
        # An answer of one token has none after the first.
        "seconds_per_token": mean and {phase: mean[phase]["seconds"] for phase in PHASES},
        "megabytes_per_token": mean and {phase: megabytes(mean[phase]) for phase in PHASES},
        "rounds_per_token": mean and {phase: mean[phase]["rounds"] for phase in PHASES},
        "first_token_seconds": report["time_to_first_token_seconds"],
        "setup_seconds": report["setup"]["seconds"],
        "setup_megabytes": megabytes(report["setup"]),
        "failure_probability_of_session": report["failure_probability"],
        "declared_equals_measured": report["declared_equals_measured"],
        "memory_gb": {
            party: int(report["environment"][f"peak_memory_bytes_{party}"]) / 1e9
            for party in ("client", "server")
        },
    }


def table_line(row: Mapping[str, Any]) -> str:
    """A prompt for a reader."""
    seconds, sizes = row["seconds_per_token"], row["megabytes_per_token"]
    cells = [" " * 9, " " * 8, " " * 10]
    if seconds is not None:
        cells = [f"{seconds['total']:9.2f}", f"{seconds['online']:8.2f}", f"{sizes['total']:10.1f}"]
    return (
        f"{row['prompt_tokens']:6d} {row['new_tokens']:4d} {row['equal_tokens']:5d} "
        f"{row['logits_cosine_min']:9.6f} {row['logits_max_abs_error']:10.2e} "
        f"{' '.join(cells)} {row['first_token_seconds']:8.1f}"
    )


def summary(rows: Sequence[Mapping[str, Any]]) -> Json:
    """Of all prompts; means are over tokens, so that longer answers count for more."""
    new = sum(row["new_tokens"] for row in rows)
    equal = sum(row["equal_tokens"] for row in rows)
    choices = sum(row["equal_choices"] for row in rows)
    long = [row for row in rows if row["seconds_per_token"] is not None]
    tokens = sum(row["new_tokens"] - 1 for row in long)

    def mean(key: str, phase: str) -> float | None:
        if not tokens:
            return None
        return sum(row[key][phase] * (row["new_tokens"] - 1) for row in long) / tokens

    return {
        "prompts": len(rows),
        "new_tokens": new,
        "equal_tokens": equal,
        "equal_percent": 100 * equal / new,
        "equal_choices": choices,
        "equal_choices_percent": 100 * choices / new,
        "logits_cosine_min": min(row["logits_cosine_min"] for row in rows),
        "logits_max_abs_error": max(row["logits_max_abs_error"] for row in rows),
        "seconds_per_token": {phase: mean("seconds_per_token", phase) for phase in PHASES},
        "megabytes_per_token": {phase: mean("megabytes_per_token", phase) for phase in PHASES},
        "rounds_per_token": {phase: mean("rounds_per_token", phase) for phase in PHASES},
        "first_token_seconds_mean": fmean(row["first_token_seconds"] for row in rows),
        "memory_gb": {
            party: max(row["memory_gb"][party] for row in rows) for party in ("client", "server")
        },
        "declared_equals_measured": all(row["declared_equals_measured"] for row in rows),
        "machine": describe()["machine"],
    }


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """The same for a reader."""
    lines = [
        f"{found['equal_tokens']} of {found['new_tokens']} tokens equal the plain model's: "
        f"{found['equal_percent']:.1f} %, {found['equal_choices']} "
        f"({found['equal_choices_percent']:.1f} %) behind the same tokens",
        f"smallest cosine of logits {found['logits_cosine_min']:.6f}, largest difference "
        f"{found['logits_max_abs_error']:.2e}",
    ]
    for phase in PHASES:
        seconds = found["seconds_per_token"][phase]
        if seconds is not None:
            lines.append(
                f"a token, {phase:7}: {seconds:7.2f} s "
                f"{found['megabytes_per_token'][phase]:8.2f} MB "
                f"{found['rounds_per_token'][phase]:7.1f} rounds"
            )
    memory = found["memory_gb"]
    lines += [
        f"first token after {found['first_token_seconds_mean']:.1f} s (mean)",
        f"memory: client {memory['client']:.2f} GB, server {memory['server']:.2f} GB",
        found["machine"],
    ]
    return lines


def configured(arguments: argparse.Namespace) -> Config:
    """The config, announcing the tokens asked for; greedy, since the plain model is too."""
    overrides = overrides_of([*arguments.sets, f"generation.max_new_tokens={arguments.tokens}"])
    return load_config(arguments.config, overrides)


def prompts_of(path: Path) -> list[str]:
    """One a line; empty lines are skipped."""
    return read_lines(path, "--prompts", "name a UTF-8 file, one prompt a line")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs" / "smollm2.yaml")
    parser.add_argument(
        "--prompts", type=Path, default=Path(__file__).with_name("prompts.txt"), help="one a line"
    )
    parser.add_argument("--tokens", type=int, default=16, help="of an answer, at most")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    rows = []
    try:
        prompts, config = prompts_of(arguments.prompts), configured(arguments)
        if config.run.generation is None or config.run.generation.temperature:
            parser.error(f"{arguments.config}: give a decoder at generation.temperature 0")
        note(HEAD)
        for prompt, report in zip(
            prompts, answered(config, prompts, arguments.tokens), strict=True
        ):
            rows.append({"prompt": prompt, **row_of(report)})
            print(json_line(rows[-1]), flush=True)
            note(table_line(rows[-1]))
    except (HybridError, OSError) as error:
        parser.error(str(error))
    found = summary(rows)
    print(json_line({"summary": found}))
    note("\n".join(summary_lines(found)))


if __name__ == "__main__":
    main()
