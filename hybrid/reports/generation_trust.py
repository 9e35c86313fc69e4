"""What a session that answers prompts assumes and shows, in plain sentences."""

from __future__ import annotations

from math import log2

from hybrid.operators.exact_rows_layers import SLOT_SET
from hybrid.planning.generation import GenerationPlan
from hybrid.reports.run_report import DISTILLING, SEMI_HONEST, lattice_line


def generation_trust_model(plan: GenerationPlan) -> list[str]:
    """Assumptions and declared leakage of a session, one sentence each."""
    return [
        SEMI_HONEST,
        *_lattices(plan),
        plan.source.trust,
        *_server_learns(plan),
        "The client learns the architecture, the bounds on every edge and on the weights (powers "
        "of two, from the server's run on public samples), scales, the polynomials in use and the "
        "tokens of the answers.",
        *plan.one.graph.disclosures,
        DISTILLING,
    ]


def _lattices(plan: GenerationPlan) -> list[str]:
    """One line for every parameter set that has keys."""
    sizes = [(keys.parameters.poly_degree, keys.parameters.total_modulus_bits)
             for keys in plan.every.key_sets]  # fmt: skip
    sizes += [(keys.parameters.poly_degree, keys.parameters.total_modulus_bits)
              for keys in plan.every.ring_sets]  # fmt: skip
    if plan.slot_steps is not None:
        sizes.append((SLOT_SET.poly_degree, SLOT_SET.total_modulus_bits))
    return [lattice_line(*size) for size in dict.fromkeys(sizes)]


def _server_learns(plan: GenerationPlan) -> list[str]:
    """What lengths say, and how far they are hidden."""
    settings, batch = plan.model.settings, plan.model.batch
    lines = [
        f"The server learns {_prompt_lengths(plan)}, which prompts continue a "
        "conversation, the number of tokens of every answer and when each was asked for."
        if batch == 1
        else f"{batch} conversations share every pass, of which the last may repeat the first: the "
        f"server learns {_shared_lengths(plan)}, the number of passes and when each was asked for.",
    ]
    if settings.stop_early and batch > 1:
        lines.append(
            "Passes end with the last of these conversations, so the server sees how long the "
            "longest of the model's own answers is, and of no other. generation.stop_early: false "
            "hides it."
        )
    elif settings.stop_early:
        lines.append(
            "An answer ends with the model's end token, so the server sees how long the model's "
            "own answer is: the number of tokens depends on prompt and answer. "
            "generation.stop_early: false hides it."
        )
    else:
        lines.append(
            "Every answer runs to the number of tokens asked for, so the number of tokens says "
            "nothing of the answer; what comes after the end token is not shown."
        )
    if plan.batch:
        lines.append(
            f"Rows are prepared {plan.batch_rows} at a time, whatever prompt they are for; when a "
            "batch is made follows from the numbers above, or, ahead of need, from when the client "
            "says so, and so do other correlations: the server sees when it does."
        )
    return lines


def _shared_lengths(plan: GenerationPlan) -> str:
    bucket = plan.model.settings.prompt_bucket
    exact = f" rounded up to a multiple of {bucket} (generation.prompt_bucket)"
    whose = "each" if plan.model.keeps_distance else "the longest"
    return f"the number of private tokens of {whose} of their prompts{exact if bucket > 1 else ''}"


def _prompt_lengths(plan: GenerationPlan) -> str:
    bucket = plan.model.settings.prompt_bucket
    if bucket == 1:
        return "the exact number of private tokens of every prompt"
    lengths = plan.model.capacity // bucket
    return (
        f"the number of private tokens of a conversation's first prompt rounded up to a multiple "
        f"of {bucket} (generation.prompt_bucket), one of {lengths} lengths, at most "
        f"{log2(lengths):.1f} bits, the exact number of those of later prompts"
    )
