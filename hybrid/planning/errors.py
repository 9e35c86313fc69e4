"""Steps that may be off by more than a config allows, at the ranges they are bound to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isinf

from hybrid.config.schema import SchedulerConfig
from hybrid.operators.base import Choice, Operator
from hybrid.planning.binding import Binder
from hybrid.planning.pins import Pins
from transport.errors import ConfigError, HybridError

CHOSEN_ERROR = 2.0**-7
"""Of what a policy chooses. MiniLM's nonlinear steps keep it, and its cosine with the plain model
is above 0.9999."""
NAMED_ERROR = 2.0**-3
"""Of what a config names. Published protocols keep it on rows of up to 1024; beyond it little is
left of a result."""
_NAMED = 3
"""Other choices that a refusal names."""


def error_limit(rules: SchedulerConfig, pins: Pins, operator: Operator) -> float:
    """Of a step. A pin is a name: it overrides the limit of what a policy may choose."""
    is_fixed = rules.policy == "fixed"
    if is_fixed and rules.max_error is not None:
        return rules.max_error
    limit = CHOSEN_ERROR if rules.max_error is None else rules.max_error
    if is_fixed or pins.of(operator.node) is not None:
        # Who names an implementation knows its constants, not what ranges make of them.
        return max(limit, NAMED_ERROR, operator.constant_error())
    return limit


def error_words(error: float) -> str:
    """For a reader; infinite is what an operator declares where nothing of a result may be left."""
    return "without bound" if isinf(error) else f"{error:.1e}"


def check_errors(
    rules: SchedulerConfig,
    operators: Sequence[Operator],
    binder: Binder,
    *,
    of_prompts: bool = False,
) -> None:
    """`ConfigError` where a step's declared error exceeds its limit: says which, and what helps.

    of_prompts: whether they are a decoder's for passes of several rows.
    """
    pins = Pins(rules.pin, [operator.node for operator in operators])
    pins = pins.prompts if of_prompts else pins
    for operator in operators:
        limit = error_limit(rules, pins, operator)
        if operator.declared_error() > limit:
            raise ConfigError(_refusal(operator, limit, binder))


def _refusal(operator: Operator, limit: float, binder: Binder) -> str:
    products = operator.products
    engine = "" if products is None else f", products by {products.name}"
    kind = "estimated" if products is not None and products.uses_ckks else "declared"
    found = sorted(_within(operator, limit, binder), key=lambda entry: entry[1])
    others = ", ".join(f"{c.label} {error_words(error)}" for c, error in found[:_NAMED])
    remedy = (
        f"within it are: {others}; name one under protocols, or for this step alone in a schedule "
        "file, or raise scheduler.max_error"
        if others
        else "nothing else is within it: calibrate on other samples, scale the model, or raise "
        "scheduler.max_error"
    )
    return (
        f"plan: {operator.node.name} ({operator.protocol}{engine}): {kind} error "
        f"{error_words(operator.declared_error())} at its ranges exceeds {limit:.1e}; {remedy}"
    )


def _within(operator: Operator, limit: float, binder: Binder) -> Iterator[tuple[Choice, float]]:
    """Other choices for the same step that keep the limit, and their errors."""
    for choice in binder.choices(operator.node):
        try:
            error = binder.bind(operator.node, choice).declared_error()
        except HybridError:
            continue
        if error <= limit:
            yield choice, error
