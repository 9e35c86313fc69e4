"""Whether the `fastest` schedule is as fast as any other, by measurement, on several networks.

    python experiments/benchmarks/policies.py --tokens 16 configs/blb.yaml --out runs/policies

Variants of one config: its schedule under every policy, and one fixed choice of `protocols`, linear
layers prepared or not; and any further configs. Every round runs all of them, in rotated order, so
that a machine that becomes slower favours none. Writes DIR/policies.json and DIR/policies.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from hybrid.machine.environment import limit_threads

limit_threads()

from rich.console import Console  # noqa: E402

from hybrid.cli.commands import make_console, measured_comparison  # noqa: E402
from hybrid.config.loading import load_config  # noqa: E402
from hybrid.config.overrides import Override  # noqa: E402
from hybrid.config.schema import SchedulerConfig  # noqa: E402
from hybrid.config.yaml_text import dumped  # noqa: E402
from hybrid.reports.comparison.configs import Options, resolved  # noqa: E402
from hybrid.reports.comparison.groups import sent  # noqa: E402
from hybrid.reports.comparison.summary import finished  # noqa: E402
from hybrid.reports.files import write_json  # noqa: E402
from transport.errors import HybridError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FASTEST = "fastest"
FIXED = {
    "linear": "token_periodic",
    "attention": "rotated_slots",
    "gelu": "even_polynomial",
    "softmax": "squared_polynomial",
    "layernorm": "octave_polynomial",
    "multiply": "cheapest",
}
"""What the fixed variants run."""
ALLOWED = 1.05
"""Most that the fastest schedule may take beside any other."""
Json = dict[str, Any]


def variants(base: Path, memory_gb: float | None, folder: Path) -> list[Path]:
    """Configs of every policy and of both fixed forms, written to the folder."""
    rules = load_config(base).run.scheduler
    chosen = {"protocols": None, "schedule": None}
    chosen |= {"mpc.correlations": None, "ckks.linear_phase": None}
    changes: dict[str, Json] = {
        policy: {**chosen, "scheduler": {**_given(rules), "policy": policy}}
        for policy in (FASTEST, "least_traffic", "fewest_rounds")
    }
    for name, phase in (("prepared", "offline"), ("online", "online")):
        named = {"protocols": FIXED, "mpc.correlations": "ferret", "ckks.linear_phase": phase}
        changes[name] = {"scheduler": None, "schedule": None, **named}
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, changed in changes.items():
        if memory_gb is not None:
            changed["runtime.weights_memory_gb"] = memory_gb
        overrides = [Override(key, value, f"variant {name}") for key, value in changed.items()]
        config = resolved(load_config(base, overrides), name)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(dumped(config), encoding="utf-8")
    return paths


def _given(rules: SchedulerConfig) -> Json:
    """What the config says beside the policy."""
    return rules.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def rotated(items: Sequence[Path], by: int) -> list[Path]:
    """The same in another order."""
    start = by % len(items)
    return [*items[start:], *items[:start]]


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Json]:
    """For each link: every variant's median seconds over all rounds, and the verdict."""
    by_link: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_link[row["link"]][row["name"]].append(row)
    found = []
    for link, by_name in by_link.items():
        lines = [_line(name, same) for name, same in by_name.items()]
        lines.sort(key=lambda line: line["seconds"])
        ours = next((line["seconds"] for line in lines if line["name"] == FASTEST), None)
        others = [line["seconds"] for line in lines if line["name"] != FASTEST]
        ratio = None if ours is None or not others else ours / min(others)
        found.append(
            {
                "link": link,
                "variants": lines,
                "fastest_over_best_other": ratio,
                "holds": ratio is not None and ratio <= ALLOWED,
            }
        )
    return found


def _line(name: str, same: Sequence[Mapping[str, Any]]) -> Json:
    seconds = [row["total"]["seconds"] for row in same]
    prediction = same[0].get("prediction")
    return {
        "name": name,
        "seconds": median(seconds),
        "seconds_of_rounds": seconds,
        "predicted_seconds": prediction and prediction["predicted_seconds"],
        "online_seconds": median(row["online"]["seconds"] for row in same),
        "sent_bytes": sent(same[0]["total"]),
        "rounds": same[0]["total"]["rounds"],
    }


def choices(rows: Sequence[Mapping[str, Any]]) -> Json:
    """Steps of the fastest schedule that are not carried the same way over all links."""
    by_step: dict[str, dict[str, Json]] = defaultdict(dict)
    for row in rows:
        if row["name"] == FASTEST:
            for step in row["steps"]:
                if step["op"] == "linear" and step["phase"] == "offline":
                    continue
                label = f"{step['protocol']} {step['multiply']}".strip()
                by_step[step["name"]][row["link"]] = {"choice": label, "why": step.get("why", "")}
    return {
        name: links
        for name, links in by_step.items()
        if len({entry["choice"] for entry in links.values()}) > 1
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader."""
    lines = ["# The fastest schedule beside others", ""]
    for place in report["links"]:
        ratio = place["fastest_over_best_other"]
        verdict = "not measured" if ratio is None else f"{ratio:.3f} of the best other one's time"
        lines += [f"## {place['link']}: {verdict}", ""]
        lines += [
            "| schedule | seconds | rounds of measurement | predicted | online | MB | rounds |"
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|"]
        for v in place["variants"]:
            guess = v["predicted_seconds"]
            lines.append(
                f"| {v['name']} | {v['seconds']:.2f} | "
                + ", ".join(f"{s:.2f}" for s in v["seconds_of_rounds"])
                + f" | {'' if guess is None else f'{guess:.2f}'} | {v['online_seconds']:.2f} | "
                f"{v['sent_bytes'] / 1e6:.1f} | {v['rounds']} |"
            )
        lines.append("")
    lines += ["## Steps that the network decides", ""]
    for name, links in report["choices"].items():
        told = "; ".join(
            f"{link}: {entry['why'] or entry['choice']}" for link, entry in links.items()
        )
        lines.append(f"- {name}: {told}")
    return "\n".join(lines) + "\n"


def run(arguments: argparse.Namespace, console: Console) -> Json:
    """All rounds; what is known is written after each."""
    paths = variants(arguments.config, arguments.memory_gb, arguments.out / "variants")
    paths += arguments.configs
    rows: list[Json] = []
    report: Json = {}
    for index in range(arguments.rounds):
        console.print(f"round {index + 1} of {arguments.rounds}", highlight=False)
        options = Options(
            arguments.out / f"round{index + 1}",
            tokens=arguments.tokens,
            links=tuple(arguments.links),
            repetitions=arguments.requests,
        )
        made = measured_comparison(rotated(paths, index), options, console)
        rows += finished(made)
        report = {
            "environment": made["environment"],
            "rounds": index + 1,
            "links": judged(rows),
            "choices": choices(rows),
        }
        write_json(report, arguments.out / "policies.json")
        (arguments.out / "policies.md").write_text(markdown(report), encoding="utf-8")
    return report


def main() -> None:
    """Measure and judge; exit code 1 where the fastest schedule is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, help="further configs")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "minilm.yaml")
    parser.add_argument("--links", nargs="+", default=["lan", "wan2", "wan3"])
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--memory-gb", type=float, help="for encoded weights, of all variants")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2, help="measured, after a warm-up")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.requests) < 1:
        parser.error("--rounds and --requests: give 1 or more")
    try:
        report = run(arguments, make_console())
    except HybridError as error:
        parser.error(str(error))
    print(markdown(report))
    sys.exit(not all(place["holds"] for place in report["links"]))


if __name__ == "__main__":
    main()
