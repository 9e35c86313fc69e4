"""What a token costs where several conversations share passes, with a small table.

    python experiments/benchmarks/batches.py
    python experiments/benchmarks/batches.py --batches 1,4 --tokens 3
    python experiments/benchmarks/batches.py experiments/benchmarks/tiny_llama.yaml --batches 1,4,16

One session for each `model.batch`, with as many different prompts, all read and answered together.
A token is the mean of those after the first: a pass divided by its conversations, with its shares
of prepared rows and of the conversations' correlations. Positions are as many as prompts and
answers need, so that prepared correlations are all used; every answer runs to its full length.

`--prompts` is read from the top and again where it ends; `--words` cuts prompts to few words, since
the longest decides the rows of all. A batch whose chance of failure exceeds the limit is refused,
with a line that says so. Writes batches_NAME.md and batches_NAME.json into `--out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from hybrid.machine.environment import describe, limit_threads

limit_threads()

from sessions import megabytes, note  # noqa: E402

from hybrid.config.files import read_lines  # noqa: E402
from hybrid.config.loading import Config, load_config  # noqa: E402
from hybrid.config.overrides import Override, overrides_of  # noqa: E402
from hybrid.models.generator import load_prompts, settings_of  # noqa: E402
from hybrid.reports.files import write_json, write_text  # noqa: E402
from hybrid.reports.generation_report import generation_reports  # noqa: E402
from hybrid.reports.markdown import table_lines  # noqa: E402
from hybrid.runtime.generation_local import LocalGeneration  # noqa: E402
from transport.errors import ConfigError, HybridError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HEAD = [
    "conversations", "rounds a pass", "rounds a token", "MB a token", "of which offline",
    "s a token", "of which offline", "first token s", "tokens equal", "memory GB client, server",
]  # fmt: skip
Json = dict[str, Any]


def configured(arguments: argparse.Namespace, batch: int, prompts: Sequence[str]) -> Config:
    """The config for this many conversations, with room for these prompts alone."""
    changes = {
        "model.batch": batch,
        "generation.max_new_tokens": arguments.tokens,
        "generation.stop_early": False,
        "generation.positions": 2048,
        "texts": None,
    }
    own = [Override(key, value, "batches.py") for key, value in changes.items()]
    config = load_config(arguments.config, [*overrides_of(arguments.sets), *own])
    settings, made = settings_of(config), load_prompts(config)
    longest = max(len(made.first(prompt).private) for prompt in prompts)
    positions = settings.padded(longest) + arguments.tokens - 1
    own.append(Override("generation.positions", positions, "batches.py"))
    return load_config(arguments.config, [*overrides_of(arguments.sets), *own])


def measured(config: Config, prompts: Sequence[str]) -> Json:
    """All prompts in one session, together; a row of the table."""
    with LocalGeneration(config) as session:
        for _ in session.generate_batch(prompts):
            pass
    return row_of(generation_reports(session))


def row_of(reports: Sequence[Mapping[str, Any]]) -> Json:
    """Of the reports of one batch, whose passes are the same."""
    first = reports[0]
    mean, count = first["per_token"], len(reports)
    a_pass = first["batch"]["per_pass"] if "batch" in first else mean
    answers = [report["generation"] for report in reports]
    return {
        "conversations": count,
        "rounds_a_pass": a_pass["total"]["rounds"],
        "rounds_a_token": mean["total"]["rounds"],
        "megabytes": {phase: megabytes(mean[phase]) for phase in ("offline", "online", "total")},
        "seconds": {phase: mean[phase]["seconds"] for phase in ("offline", "online", "total")},
        "first_token_seconds": max(r["time_to_first_token_seconds"] for r in reports),
        "new_tokens": sum(answer["new_tokens"] for answer in answers),
        "equal_tokens": sum(answer["equal_tokens"] for answer in answers),
        "logits_cosine_min": min(answer["logits_cosine_min"] for answer in answers),
        "failure_probability": first["failure_probability"],
        "declared_equals_measured": all(r["declared_equals_measured"] for r in reports),
        "memory_gb": {
            party: int(first["environment"][f"peak_memory_bytes_{party}"]) / 1e9
            for party in ("client", "server")
        },
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row for a reader."""
    size, seconds, memory = row["megabytes"], row["seconds"], row["memory_gb"]
    return [
        str(row["conversations"]),
        f"{row['rounds_a_pass']:.1f}",
        f"{row['rounds_a_token']:.1f}",
        f"{size['total']:.3f}",
        _part(size),
        f"{seconds['total']:.3f}",
        _part(seconds),
        f"{row['first_token_seconds']:.1f}",
        f"{row['equal_tokens']} of {row['new_tokens']}",
        f"{memory['client']:.2f}, {memory['server']:.2f}",
    ]


def _part(phases: Mapping[str, float]) -> str:
    return f"{100 * phases['offline'] / phases['total']:.0f} %"


def run(arguments: argparse.Namespace) -> None:
    """All batches, one session each; what is known is written after each."""
    lines = read_lines(arguments.prompts, "--prompts", "name a UTF-8 file, one prompt a line")
    if arguments.words:
        lines = [" ".join(line.split()[: arguments.words]) for line in lines]
    rows: list[Json] = []
    refused: list[str] = []
    for batch in arguments.batches:
        prompts = list(islice(cycle(lines), batch))
        note(f"{batch} conversations")
        config = configured(arguments, batch, prompts)
        try:
            rows.append(measured(config, prompts))
        except ConfigError as error:
            refused.append(f"{batch} conversations are refused: {error}")
            note(refused[-1])
            continue
        name = config.run.name
        table = [*table_lines(HEAD, [cells(row) for row in rows]), "", *refused]
        write_text("\n".join(table) + "\n", arguments.out / f"batches_{name}.md")
        found = {"name": name, "rows": rows, "refused": refused, "environment": describe()}
        write_json(found, arguments.out / f"batches_{name}.json")
    print("\n".join([*table_lines(HEAD, [cells(row) for row in rows]), *refused]))


def sizes(text: str) -> list[int]:
    """Numbers between commas, 1 to 64."""
    found = [int(part) for part in text.split(",")]
    if not all(1 <= size <= 64 for size in found):
        raise ValueError(text)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs" / "smollm2.yaml")
    parser.add_argument("--batches", type=sizes, default=[1, 4, 16], metavar="N,N")
    parser.add_argument("--tokens", type=int, default=4, help="of every answer; 2 or more")
    parser.add_argument(
        "--prompts", type=Path, default=Path(__file__).with_name("prompts.txt"), help="one a line"
    )
    parser.add_argument("--words", type=int, default=0, help="of a prompt, at most; 0: all")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "runs")
    arguments = parser.parse_args()
    if arguments.tokens < 2:
        parser.error("--tokens: 2 or more, since the first one's pass reads the prompt")
    try:
        run(arguments)
    except (HybridError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
