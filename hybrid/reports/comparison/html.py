"""report.html: one file that loads nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hybrid.reports.comparison import words
from hybrid.reports.comparison.charts import draw_all
from hybrid.reports.comparison.drawing import Drawn
from hybrid.reports.comparison.groups import GROUPS, by_group, group_of, value
from hybrid.reports.comparison.summary import failures, finished
from transport.foreign import printable

Json = dict[str, Any]
_TEMPLATE = "report.html.j2"
_OPERATOR_TABLES = (("seconds", "Seconds"), ("megabytes", "MB"), ("rounds", "Rounds"))


def page_of(made: Json) -> tuple[str, Json]:
    """Draw and write; the page, and the report with its figures declared."""
    drawn = draw_all(made)
    page = _environment().get_template(_TEMPLATE).render(
        made=made,
        runs=finished(made),
        failed=failures(made),
        figures={figure.id: asdict(figure) for figure in drawn},
        numbers={figure.id: index + 1 for index, figure in enumerate(drawn)},
        sentences=words.summary_sentences(made),
        measured_how=words.how_measured(made),
        models=words.models(made),
        operator_tables=[_operator_table(made, *table) for table in _OPERATOR_TABLES],
        predictions=words.predictions(made),
        answer_head=words.ANSWER_HEAD,
        answers=words.answer_rows(made),
        one_unit=words.one_unit(made),
        reason_lists=words.reason_lists(made),
        trust=words.trust_lines(made),
        words=words,
        colours={group.key: group.colour for group in GROUPS},
        group_of=group_of,
        explained=any(step.get("why") for row in finished(made) for step in row["steps"]),
    )  # fmt: skip
    return page, {**made, "figures": [_declared(figure) for figure in drawn]}


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("hybrid.reports.comparison", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )


def _finalized(value: Any) -> Any:
    """Control codes have no place in a page; what was drawn has none already."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if plain else value


def _declared(figure: Drawn) -> Json:
    return {"id": figure.id, "title": figure.title, "caption": figure.caption}


def _operator_table(made: Json, what: str, title: str) -> Json:
    """Runs down, groups across; empty where a run has no such step."""
    sums = [by_group(row["steps"], what) for row in finished(made)]
    shown = [group for group in GROUPS if any(group.key in found for found in sums)]
    rows = []
    for row, found in zip(finished(made), sums, strict=True):
        numbers = [found.get(group.key) for group in shown] + [value(row["total"], what)]
        rows.append((words.label(row, made), [_cell(number, what) for number in numbers]))
    return {"title": title, "groups": shown, "rows": rows}


def _cell(number: float | None, what: str) -> str:
    if number is None:
        return "–"
    return f"{number:,.0f}" if what == "rounds" else words.seconds(number)
