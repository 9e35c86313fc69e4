"""What hints of exact slots follow."""

from he_linear.exact.slot_parameters import SPREAD


def chance(part):
    """That the hint is 1, the spread having a triangular density of half width SPREAD."""
    inside = abs(abs(part - 0.5) - 0.25)
    tail = max(0.0, 1 - inside / SPREAD) ** 2 / 2
    return 1 - tail if 0.25 < part < 0.75 else tail
