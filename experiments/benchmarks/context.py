"""What a token costs behind 16, 64 and 256 positions, with a figure.

    python experiments/benchmarks/context.py
    python experiments/benchmarks/context.py --like gpt2
    python experiments/benchmarks/context.py --report runs/smollm2/report.json

A decoder of few layers with random weights (`--like`, `--layers`) reads a prompt and makes four
tokens, one session for each context; a token is the mean of the three after the first, whose cache
ends at the context. A PROJECTION, labelled as one, takes steps of layers times the ratio of layers
and steps outside them once. `--report` marks what `hybrid generate` measured of the whole model, at
the context where its answer ended, the public prefix included. Each token carries its shares of
batches of rows and of the correlations of the conversation, which has as many positions as the
context.

Writes context_LIKE.png and context_LIKE.json, with every step of every token, into `--out`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.machine.environment import describe, limit_threads

limit_threads()

from projection import projected  # noqa: E402
from sessions import megabytes, note  # noqa: E402

from hybrid.config.loading import Config, load_config  # noqa: E402
from hybrid.config.overrides import Override, overrides_of  # noqa: E402
from hybrid.reports.files import write_json  # noqa: E402
from hybrid.reports.generation_report import generation_reports  # noqa: E402
from hybrid.runtime.generation_local import LocalGeneration  # noqa: E402
from transport.errors import HybridError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "smollm2-135m": ("configs/smollm2.yaml", 30, "SmolLM2-135M"),
    "gpt2": ("configs/gpt2_shape.yaml", 12, "GPT-2"),
}
"""A config of the schedule, how many layers the whole model has, its name."""
NEW = 4
PHASES = ("offline", "online", "total")
INK, MUTED, BLUE, ORANGE = "#1a1a1a", "#767676", "#2a5c9a", "#c8641e"
Json = dict[str, Any]


def configured(like: str, layers: int, context: int, sets: Sequence[str]) -> Config:
    """Of the shape, with positions for this context alone."""
    changes = {
        "model.path": None,
        "model.shape": {"like": like, "layers": layers},
        "texts": None,
        "generation.chat": False,
        "generation.positions": context,
        "generation.max_new_tokens": NEW,
        # The cache holds the prompt's rows and no others.
        "generation.prompt_bucket": 1,
    }
    own = [Override(key, value, "context.py") for key, value in changes.items()]
    return load_config(ROOT / SHAPES[like][0], [*own, *overrides_of(sets)])


def token_at(config: Config, context: int) -> Json:
    """The report of one session whose last token has `context` positions in the cache."""
    # The last token is chosen behind the prompt and all new tokens but itself.
    words = context - NEW + 1
    with LocalGeneration(config) as session:
        for _ in session.generate(" ".join(f"word{i}" for i in range(words))):
            pass
    (report,) = generation_reports(session)
    return report


def operations(steps: Sequence[Mapping[str, Any]]) -> dict[str, Json]:
    """Seconds, megabytes and rounds of every operation of a token, by phase."""
    found: dict[str, Json] = {}
    for step in steps:
        row = found.setdefault(
            f"{step['op']} ({step['phase']})",
            {"steps": 0, "seconds": 0.0, "megabytes": 0.0, "rounds": 0.0},
        )
        seen = step["measured"]
        row["steps"] += 1
        row["seconds"] += seen["seconds"]
        row["megabytes"] += megabytes(seen)
        row["rounds"] += seen["rounds"]
    return found


def small(row: Mapping[str, Any]) -> Json:
    """Seconds, megabytes and rounds of a phase."""
    return {"seconds": row["seconds"], "megabytes": megabytes(row), "rounds": row["rounds"]}


def point_of(report: Mapping[str, Any], context: int, layers: int) -> Json:
    """Measured, projected and by operation, at one context."""
    mean, steps = report["per_token"], report["steps"]["mean_token"]
    whole = projected(steps, layers)
    return {
        "context": context,
        "measured": {phase: small(mean[phase]) for phase in PHASES},
        "PROJECTION": {phase: small(whole[phase]) for phase in PHASES},
        "layers_measured": whole["layers_measured"],
        "layers_projected": layers,
        "by_operation": operations(steps),
        "first_token_seconds": report["time_to_first_token_seconds"],
        "failure_probability": report["failure_probability"],
        "declared_equals_measured": report["declared_equals_measured"],
        "steps": steps,
    }


def whole_point(path: Path) -> Json:
    """Of a measured answer of the whole model: its mean token, at the last one's context."""
    report = json.loads(path.read_text(encoding="utf-8"))
    answer, mean = report["generation"], report["per_token"]
    if mean is None:
        raise ValueError("the answer has one token alone")
    context = answer["tokens_before"] + answer["prompt_tokens"] + answer["new_tokens"] - 1
    context += answer["prefix_tokens"]
    return {
        "context": context,
        "model": report["model"],
        "measured": {phase: small(mean[phase]) for phase in PHASES},
    }


def drawn(found: Mapping[str, Any], out: Path) -> None:
    """Seconds, megabytes and rounds of a token against context."""
    import matplotlib

    matplotlib.use("Agg")  # A file, no screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    points, whole = found["points"], found["whole_model"]
    for axes, key, unit in zip(
        panels, ("seconds", "megabytes", "rounds"), ("seconds", "MB of both directions,", "rounds"),
        strict=True,
    ):  # fmt: skip
        _panel(axes, points, key, unit)
        if whole is not None:
            axes.plot(
                whole["context"], whole["measured"]["total"][key], "*", color=INK, markersize=13,
                label="all layers, total, measured", zorder=5,
            )  # fmt: skip
    name, few, layers = found["name"], found["layers_measured"], found["layers"]
    figure.suptitle(
        f"A token of the shape of {name}: {_layers(few)} measured, {layers} layers PROJECTED",
        color=INK, fontsize=12,
    )  # fmt: skip
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def _panel(axes: Any, points: Sequence[Mapping[str, Any]], key: str, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    contexts = [point["context"] for point in points]
    few, layers = points[0]["layers_measured"], points[0]["layers_projected"]
    lines = (
        ("PROJECTION", "total", BLUE, "--", "o", f"{layers} layers, total, PROJECTION"),
        ("PROJECTION", "online", ORANGE, "--", "s", f"{layers} layers, online, PROJECTION"),
        ("measured", "total", BLUE, "-", "o", f"{_layers(few)}, total, measured"),
        ("measured", "online", ORANGE, "-", "s", f"{_layers(few)}, online, measured"),
    )
    for kind, phase, colour, dash, marker, label in lines:
        values = [point[kind][phase][key] for point in points]
        face = colour if kind == "measured" else "white"
        axes.plot(
            contexts, values, dash, color=colour, marker=marker, markerfacecolor=face, label=label
        )
        # The inner lines may meet, so that numbers stand at the outer ones.
        if (kind, phase) in (("PROJECTION", "total"), ("measured", "online")):
            above = 6 if phase == "total" else -13
            for x, y in zip(contexts, values, strict=True):
                axes.annotate(
                    f"{y:.3g}" if y < 1000 else f"{y:,.0f}", (x, y), xytext=(0, above),
                    textcoords="offset points", ha="center", fontsize=8, color=MUTED,
                )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # Plain numbers at 1, 2 and 5 of every decade.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    axes.set_xticks(contexts, [str(context) for context in contexts])
    axes.set_xlabel("positions in the cache")
    axes.set_title(f"{unit} a token", fontsize=10, color=INK)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def shown(point: Mapping[str, Any]) -> str:
    """A context for a reader."""
    lines = [f"context {point['context']}:"]
    for kind, layers in (("measured", "layers_measured"), ("PROJECTION", "layers_projected")):
        for phase in PHASES:
            row = point[kind][phase]
            lines.append(
                f"  {point[layers]:2d} layers {kind:10} {phase:7} {row['seconds']:8.2f} s "
                f"{row['megabytes']:8.2f} MB {row['rounds']:7.0f} rounds"
            )
    ordered = sorted(point["by_operation"].items(), key=lambda item: -item[1]["seconds"])
    for name, row in ordered:
        lines.append(
            f"    {name:28} {row['seconds']:7.3f} s {row['megabytes']:8.3f} MB "
            f"{row['rounds']:6.1f} rounds"
        )
    return "\n".join(lines)


def run(arguments: argparse.Namespace, stem: Path) -> None:
    """All contexts, one session each; what is known is written after each."""
    like, layers = arguments.like, arguments.layers
    _, whole_layers, name = SHAPES[like]
    whole = None if arguments.report is None else whole_point(arguments.report)
    points: list[Json] = []
    found = {
        "like": like,
        "name": name,
        "layers_measured": layers,
        "layers": whole_layers,
        "points": points,
        "whole_model": whole,
        "environment": describe(),
    }
    for context in arguments.contexts:
        config = configured(like, layers, context, arguments.sets)
        note(f"context {context}")
        points.append(point_of(token_at(config, context), context, whole_layers))
        print(shown(points[-1]), flush=True)
        drawn(found, stem.with_name(f"{stem.name}.png"))
        write_json(found, stem.with_name(f"{stem.name}.json"))


def main() -> None:
    """Measure, project, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--like", choices=sorted(SHAPES), default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=2, help="that run")
    parser.add_argument("--contexts", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--report", type=Path, help="report.json of `hybrid generate`")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    arguments = parser.parse_args()
    if arguments.layers < 1 or min(arguments.contexts) <= NEW:
        parser.error(f"--layers: 1 or more; --contexts: more than {NEW}")
    stem = arguments.out / f"context_{arguments.like}"
    try:
        run(arguments, stem)
    except (HybridError, OSError, ValueError, KeyError, TypeError) as error:
        parser.error(str(error))
    note(f"figure: {stem}.png")


if __name__ == "__main__":
    main()
