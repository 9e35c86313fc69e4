"""Numbers and findings as text, shared by the page and the Markdown report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from hybrid.reports.comparison import reasons
from hybrid.reports.comparison.groups import sent
from hybrid.reports.comparison.summary import failures, finished, links_of
from hybrid.reports.run_report import prediction_line
from transport.foreign import printable

Json = Mapping[str, Any]


def seconds(number: float) -> str:
    """Three significant figures, at most milliseconds."""
    if number >= 99.95:
        return f"{number:.0f}"
    if number >= 9.995:
        return f"{number:.1f}"
    return f"{number:.2f}" if number >= 0.995 else f"{number:.3f}"


def megabytes(count: float) -> str:
    """Bytes as MB (10^6)."""
    size = count / 1e6
    if size >= 99.95:
        return f"{size:,.0f}"
    return f"{size:.1f}" if size >= 9.995 else f"{size:.2f}"


def times(ratio: float) -> str:
    """A ratio for a sentence."""
    if ratio < 1.95:
        return f"{ratio:.2f} times"
    return f"{ratio:.0f} times" if ratio >= 20 else f"{ratio:.1f} times"


def unit(made: Mapping[str, Any]) -> str:
    """What seconds and bytes are of: a request, or a token of an answer."""
    return str(made["unit"])


def one_unit(made: Mapping[str, Any]) -> str:
    """The same in a sentence."""
    return "one request" if unit(made) == "request" else "a token after the prompt"


def link_words(link: str) -> str:
    """A link inside a sentence."""
    return "Over loopback" if link == "none" else f"Over {link}"


def link_title(link: str) -> str:
    """A link as a heading."""
    return "loopback" if link == "none" else link


def summary_sentences(made: Mapping[str, Any]) -> list[str]:
    """Which config is fastest over each link, by how much, and who sends least."""
    sentences = [_fastest(place, made) + _doubt(place, made) for place in made["ranking"]]
    found = (_leanest(made), _batched(made), _agreement(made), _beyond(made), _failed(made))
    sentences += [text for text in found if text]
    if not made["complete"]:
        sentences.append("Not all runs have ended; this report holds those that have.")
    return sentences


def _fastest(place: Json, made: Mapping[str, Any]) -> str:
    first, *others = place["order"]
    said = f"{link_words(place['link'])}, {first['name']} takes {seconds(first['seconds'])} s"
    said += " a token" if unit(made) == "token" else ""
    if not others:
        return said + "."
    tails = [
        f"{o['name']} {seconds(o['seconds'])} s ({times(o['ratio_to_fastest'])} as long)"
        for o in others
    ]
    joined = tails[0] if len(tails) == 1 else ", ".join(tails[:-1]) + " and " + tails[-1]
    return f"{said} and is fastest; {joined}."


def _beyond(made: Mapping[str, Any]) -> str:
    """Runs whose ranges did not hold."""
    names = [row["name"] for row in finished(made) if row.get("ranges_exceeded")]
    if not names:
        return ""
    return f"Ranges were exceeded by {', '.join(names)}: results may be wrong, see their reports."


def _doubt(place: Json, made: Mapping[str, Any]) -> str:
    """Says so where neighbours in the order are not clearly apart."""
    totals = {r["name"]: r["total"] for r in finished(made) if r["link"] == place["link"]}
    names = [ranked["name"] for ranked in place["order"]]
    close = [
        f"{first} and {second}"
        for first, second in pairwise(names)
        if totals[first]["seconds_max"] >= totals[second]["seconds_min"]
    ]
    if not close:
        return ""
    return f" The repetitions of {', of '.join(close)} overlap, so their order may be chance."


def _leanest(made: Mapping[str, Any]) -> str:
    """Least traffic and fewest rounds, over the first link."""
    links = links_of(made)
    if not links:
        return ""
    here = [row for row in finished(made) if row["link"] == links[0]]
    if len(here) < 2:
        return ""
    least = min(here, key=lambda row: sent(row["total"]))
    most = max(here, key=lambda row: sent(row["total"]))
    fewest = min(here, key=lambda row: row["total"]["rounds"])
    return (
        f"{least['name']} sends least, {megabytes(sent(least['total']))} MB a {unit(made)} "
        f"({most['name']} sends most, {megabytes(sent(most['total']))} MB); "
        f"{fewest['name']} takes the fewest rounds, {fewest['total']['rounds']:,}."
    )


def reason_lists(made: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Link and sentences: who is faster than the reference, by how much and why."""
    return [
        (link_words(entry["link"]), reasons.sentences(entry, seconds))
        for entry in made["reasons"]
        if entry["others"]
    ]


def _batched(made: Mapping[str, Any]) -> str:
    """Seconds and bytes of one text, where requests hold several."""
    parts = []
    for row in finished(made):
        batch, total = row["config"]["model"].get("batch", 1), row["total"]
        if batch > 1:
            each = f"{seconds(total['seconds'] / batch)} s and {megabytes(sent(total) / batch)} MB"
            parts.append(f"{label(row, made)} has {batch} texts a request, {each} a text")
    return "; ".join(parts) + "." if parts else ""


def _agreement(made: Mapping[str, Any]) -> str:
    """Whether predicted and measured traffic are equal."""
    runs = finished(made)
    steps = sum(len(row["steps"]) for row in runs)
    if not steps:
        return ""
    wrong = sum(len(row["traffic_differs"]) for row in runs)
    if not wrong:
        return f"Bytes and rounds of all {steps:,} steps are exactly as predicted."
    return f"Bytes or rounds of {wrong:,} of {steps:,} steps differ from their prediction."


def _failed(made: Mapping[str, Any]) -> str:
    names = [f"{row['name']} ({link_title(row['link'])})" for row in failures(made)]
    return f"Failed: {', '.join(names)}; see below." if names else ""


def predictions(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Run and sentence, where seconds were predicted."""
    return [
        (label(row, made), prediction_line(row["prediction"]))
        for row in finished(made)
        if row.get("prediction")
    ]


def label(row: Json, made: Mapping[str, Any]) -> str:
    """A run's name, with its link where there are several."""
    name, several = printable(row["name"]), len(links_of(made)) > 1
    return f"{name} · {link_title(row['link'])}" if several else name


def phase_cells(row: Json) -> list[str]:
    """Seconds, least, largest, MB each way and rounds."""
    return [
        seconds(row["seconds"]),
        f"{seconds(row['seconds_min'])} to {seconds(row['seconds_max'])}",
        megabytes(row["client_sent_bytes"]),
        megabytes(row["server_sent_bytes"]),
        f"{row['rounds']:,}",
    ]


def accuracy_cells(row: Json) -> list[str]:
    """Cosine and largest difference."""
    found = row["accuracy"]
    if not found:
        return ["not compared", ""]
    return [f"{found['cosine']:.6f}", f"{found['max_abs_error']:.1e}"]


ANSWER_HEAD = ("run", "prompt tokens", "answer tokens", "first token s", "prefill offline s",
               "prefill online s", "prefill MB", "tokens of the plain model", "answer")  # fmt: skip


def answer_rows(made: Mapping[str, Any]) -> list[list[str]]:
    """Of every run of a decoder: reading the prompt, and the answer."""
    rows = []
    for row in finished(made):
        found = row.get("answer")
        if not found:
            continue
        before, after = found["prefill"]["offline"], found["prefill"]["online"]
        equal = found["equal_tokens"]
        rows.append(
            [
                label(row, made),
                str(found["prompt_tokens"]),
                str(found["new_tokens"]),
                seconds(found["time_to_first_token_seconds"]),
                seconds(before["seconds"]),
                seconds(after["seconds"]),
                megabytes(sent(before) + sent(after)),
                "not compared" if equal is None else f"{equal} of {found['new_tokens']}",
                found["text"],
            ]
        )
    return rows


def trust_lines(made: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Lines that all configs share, and each config's own."""
    by_name = {row["name"]: row["trust_model"] for row in finished(made)}
    lists = list(by_name.values())
    shared = [line for line in lists[0] if all(line in other for other in lists)] if lists else []
    own = [
        (name, [line for line in lines if line not in shared]) for name, lines in by_name.items()
    ]
    return shared, [(name, lines) for name, lines in own if lines]


def models(made: Mapping[str, Any]) -> str:
    """The models behind the figures, one sentence each."""
    by_model: dict[str, list[str]] = {}
    for row in finished(made):
        names = by_model.setdefault(row["model"], [])
        if row["name"] not in names:
            names.append(row["name"])
    if len(by_model) == 1:
        return "".join(f"Model: {model}." for model in by_model if model)
    return " ".join(f"Model of {', '.join(n)}: {model}." for model, n in by_model.items() if model)


def how_measured(made: Mapping[str, Any]) -> str:
    """What the figures are, in one sentence."""
    number = made["repetitions"]
    what, of = "request", ""
    if unit(made) == "token":
        what, of = "answer", "the mean over an answer's tokens after the first, with their shares "
        of += "of what was prepared for several: "
    kept = f"one {what}" if number == 1 else f"medians of {number} {what}s of one session"
    warm = ", after a first one that is not counted" if made["warm_up"] else ""
    machine = made["environment"].get("machine", "unknown machine")
    return f"Seconds are {of}{kept}{warm}, at the client, on {machine}."
