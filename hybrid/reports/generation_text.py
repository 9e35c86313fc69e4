"""The report of a prompt for a reader: Markdown, and tables on a terminal.

Prompts, answers and names come from outside: on the terminal they are neither markup nor control
codes, in Markdown neither formatting nor HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid.reports.generation_waits import waits_line
from hybrid.reports.markdown import environment_lines, plain_cell, quoted, table_lines
from hybrid.reports.range_report import range_section
from hybrid.reports.run_report import (
    Table,
    group_table,
    measured_cells,
    phase_table,
    prediction_line,
    rounds_text,
    steps_table,
)
from hybrid.reports.terminal import plain, print_ranges, rich_table

Report = Mapping[str, Any]
_STEP_TABLES = (("prefill", "the prefill"), ("last_token", "the last token"))


def token_table(report: Report) -> Table:
    """The prefill and every token: seconds, megabytes and rounds, offline and online."""
    generation = report["generation"]
    passes = [generation["prefill"], *generation["tokens"]]
    known, predicted = (key in generation["prefill"] for key in ("token", "predicted_seconds"))
    head = ["pass", "offline s", "online s", "MB", "rounds"]
    head += ["predicted offline s", "predicted online s"] if predicted else []
    head += ["gives", "plain model gives", "logits cosine"] if known else []
    rows = []
    for index, one in enumerate(passes):
        name = f"prefill of {generation['prompt_tokens']}" if not index else f"token {index + 1}"
        before, after = one["offline"], one["online"]
        sent = sum(part[f"{party}_sent_bytes"] for part in (before, after)
                   for party in ("client", "server"))  # fmt: skip
        cells = [name, f"{before['seconds']:.3f}", f"{after['seconds']:.3f}", f"{sent / 1e6:.3f}"]
        cells.append(rounds_text(before["rounds"] + after["rounds"]))
        if predicted:
            cells += [f"{one['predicted_seconds'][phase]:.3f}" for phase in ("offline", "online")]
        rows.append(cells + (_given(one) if known else []))
    return head, rows


def _given(one: Mapping[str, Any]) -> list[str]:
    text = repr(one["token_text"]) if "token_text" in one else ""
    plain = one.get("plain_token")
    same = "" if plain is None else "the same" if plain == one["token"] else str(plain)
    cosine = f"{one['logits_cosine']:.6f}" if "logits_cosine" in one else ""
    return [f"{one['token']} {text}".strip(), same, cosine]


def total_lines(report: Report) -> list[str]:
    """A token and the first one, in a sentence each."""
    generation, lines = report["generation"], []
    waited = report.get("time_to_first_token_seconds")
    if waited is not None:
        lines.append(
            f"First token after {waited:.3f} s: {generation['prompt_tokens']} private tokens of "
            f"the prompt; {waits_line(report['first_token_seconds'])}."
        )
    mean, batch, count = report["per_token"], report.get("batch"), len(generation["tokens"])
    if mean is None:
        return lines
    if batch is None:
        lines.append(
            f"A token after it: {_cost(mean)}; the mean of {count}, with its share of batches and "
            "of the conversation."
        )
        return lines
    return [
        *lines,
        f"A pass after it: {_cost(batch['per_pass'])}; the mean of {count}, with its share of "
        "prepared rows and of the conversations. It gives a token of each of "
        f"{batch['conversations']} conversations, {_asked(batch['prompts'])}.",
        f"A token after it, the pass divided by {batch['prompts']}: {_cost(mean)}.",
    ]


def _asked(prompts: int) -> str:
    return "1 of which answers a prompt" if prompts == 1 else f"{prompts} of which answer prompts"


def _cost(row: Mapping[str, Any]) -> str:
    """Of phases: seconds, bytes of both directions, rounds."""
    whole = row["total"]
    sent = whole["client_sent_bytes"] + whole["server_sent_bytes"]
    return (
        f"{whole['seconds']:.3f} s ({row['offline']['seconds']:.3f} offline, "
        f"{row['online']['seconds']:.3f} online), {sent / 1e6:.3f} MB, {whole['rounds']:.2f} rounds"
    )


def accuracy_line(report: Report) -> str:
    """How far answer and logits are from the plain model's."""
    generation, parts = report["generation"], []
    equal = generation.get("equal_tokens")
    if equal is not None:
        new = generation["new_tokens"]
        parts.append(f"{equal} of {new} tokens are those of the plain model")
        same = generation.get("equal_choices")
        if same is not None and equal != new:
            parts[-1] += f" ({same} of {new} behind the same tokens)"
    if generation.get("note"):
        parts.append(generation["note"])
    if report.get("accuracy"):
        found = report["accuracy"]
        parts.append(
            f"logits: least cosine {found['cosine']:.6f}, largest difference "
            f"{found['max_abs_error']:.2e} (against the {found['reference']})"
        )
    return "; ".join(parts)


def traffic_line(report: Report) -> str:
    """Whether what was sent is what was declared."""
    if report["declared_equals_measured"]:
        return "Bytes and rounds of every step of the session are exactly as declared."
    names = [f"{s['party']}, {s['where']}, {s['step']}" for s in report["differing_steps"]]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"Bytes or rounds differ from what was declared: {'; '.join(names[:5])}{more}."


def distance_lines(report: Report) -> list[str]:
    """What hints told, of all that ran and of what was announced; nothing where there are none."""
    if not report["hint_distance"]:
        return []
    return [
        f"Hints of ciphertexts in slots: within {report['hint_distance']:.1e} of simulated ones in "
        f"the session, {report['hint_distance_announced']:.1e} in {_announced(report)}, limit "
        f"{report['hint_distance_limit']:.1e} (statistical distance)."
    ]


def _announced(report: Report) -> str:
    count = report["batch"]["conversations"] if "batch" in report else 1
    whose = "one conversation" if count == 1 else f"{count} conversations that share passes, each"
    return f"{whose} of the announced size"


def failure_line(report: Report) -> str:
    """What ran and what was announced, against the limit."""
    return (
        f"Failure probability: of all that ran in the session at most "
        f"{report['failure_probability']:.1e}, of {_announced(report)} "
        f"{report['failure_probability_announced']:.1e}, limit "
        f"{report['failure_probability_limit']:.1e}."
    )


# -- terminal -------------------------------------------------------------------------------


def print_generation_report(
    console: Console, report: Report, title: str, folder: Path | None
) -> None:
    """Operations of a token, every pass, totals, accuracy, the answer."""
    generation = report["generation"]
    console.rule(plain(title[:100]))
    name = "last_token" if report["steps"]["last_token"] else "prefill"
    console.print(f"{dict(_STEP_TABLES)[name]}, by operation:")
    console.print(rich_table(*group_table(report["steps"][name], "op")))
    console.print(rich_table(*token_table(report)))
    console.print(rich_table(*phase_table(report)))
    lines = [
        *total_lines(report),
        failure_line(report),
        *distance_lines(report),
        traffic_line(report),
    ]
    lines.append(accuracy_line(report))
    if report["prediction"]:
        lines.append(f"Of a token: {prediction_line(report['prediction'])}")
    for line in lines:
        if line:
            console.print(plain(line))
    print_ranges(console, report)
    for key, said in (("text", "answer"), ("plain_text", "plain model")):
        if generation.get(key) is not None:
            console.print(plain(f"{said}: {generation[key]}"))
    if folder:
        console.print(plain(f"report: {folder / 'report.md'}"), soft_wrap=True)


# -- Markdown -------------------------------------------------------------------------------


def generation_markdown(report: Report) -> str:
    """The same report as Markdown."""
    lines = [f"# Private generation: {plain_cell(report['config']['name'])}", ""]
    lines += [f"Model: {plain_cell(report['model'])}.", ""]
    lines += ["## Trust model", "", *(f"- {line}" for line in report["trust_model"]), ""]
    for line in (failure_line(report), *distance_lines(report)):
        lines += [line, ""]
    lines += ["## Totals", "", *table_lines(*phase_table(report)), ""]
    for line in total_lines(report):
        lines += [line, ""]
    left = ", ".join(measured_cells(report["prepared_and_left"])[:3])
    lines += [f"Prepared in the session and not consumed (s, MB each way): {left}.", ""]
    lines += ["## Answer", "", *_answer_lines(report)]
    lines += range_section(report)
    head, rows = token_table(report)
    escaped = [[plain_cell(cell) for cell in cells] for cells in rows]
    lines += ["## Pass by pass", "", *table_lines(head, escaped), ""]
    lines += ["## Declared and measured", "", traffic_line(report), ""]
    if report["prediction"]:
        lines += [f"Of a token: {prediction_line(report['prediction'])}", ""]
    for key, said in _STEP_TABLES:
        lines += _step_lines(report["steps"][key], said)
    lines += ["## Environment", ""]
    lines += environment_lines(report["environment"])
    return "\n".join(lines) + "\n"


def _answer_lines(report: Report) -> list[str]:
    generation, lines = report["generation"], []
    for key, said in (("text", "The answer:"), ("plain_text", "The plain model's:")):
        if generation.get(key) is not None:
            lines += [said, "", *quoted(generation[key]), ""]
    line = accuracy_line(report)
    if "text" not in generation:
        line = "This party does not see it."
    return [*lines, line, ""] if line else lines


def _step_lines(steps: Sequence[Mapping[str, Any]], said: str) -> list[str]:
    if not steps:
        return []
    return [
        f"## Operations of {said}", "", *table_lines(*group_table(steps, "op")), "",
        f"## Layers of {said}", "", *table_lines(*group_table(steps, "layer")), "",
        f"## Steps of {said}", "", *table_lines(*steps_table(steps)), "",
    ]  # fmt: skip
