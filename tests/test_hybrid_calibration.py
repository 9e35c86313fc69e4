"""Prices corrected by whole steps: what the fit finds, and what it leaves alone."""

from __future__ import annotations

import pytest

from hybrid.calibration.fit import corrected, predicted
from hybrid.calibration.steps import Observation
from hybrid.machine.prices import MachinePrices
from transport.computing import Trip, Work, units

MEASURED = {"a": 1e-3, "b": 2e-3, "c": 5e-4, "unused": 7e-3, "zero": 0.0}
TRUE = {"a": 2e-3, "b": 1.5e-3, "c": 5e-4, "unused": 7e-3, "zero": 0.0}


def prices(per_unit):
    return MachinePrices(dict(per_unit), 1e-4, 1e9, "", "", 0.0, 0.0)


def works():
    yield Work.together(units(a=10), 2, 1000)
    yield Work.together(units(a=3, b=20), 1)
    yield Work.together(units(c=40, zero=5), 4)
    trip = (units(a=4), units(b=1), units(c=8), (), units(a=8), units(b=3), units(c=2))
    yield Work((Trip(*trip, 2, 3, 2000, 3000),))
    yield Work((Trip(*trip, 4, 4, 2000, 3000, stages=4),)) + Work.together(units(b=2))


def observed(true):
    there = prices(true)
    blank = [Observation(str(i), work, 1.0) for i, work in enumerate(works())]
    return [Observation(o.label, o.work, predicted(o, there)) for o in blank]


def test_the_fit_finds_prices_that_explain_the_steps():
    found = corrected(prices(MEASURED), observed(TRUE))
    assert found.fit_error < 0.01
    for observation in observed(TRUE):
        assert predicted(observation, found) == pytest.approx(observation.seconds, rel=0.03)
    assert found.units["a"] == pytest.approx(TRUE["a"], rel=0.1)
    assert found.units["b"] == pytest.approx(TRUE["b"], rel=0.1)


def test_prices_that_no_step_contradicts_stay():
    found = corrected(prices(TRUE), observed(TRUE))
    for name, price in TRUE.items():
        assert found.units[name] == pytest.approx(price, rel=1e-6, abs=1e-12)
    assert corrected(prices(MEASURED), observed(TRUE)).units["unused"] == MEASURED["unused"]


def test_one_disturbed_step_moves_the_others_little():
    steps = observed(TRUE)
    steps[2] = Observation("disturbed", steps[2].work, 100 * steps[2].seconds)
    found = corrected(prices(MEASURED), steps)
    assert predicted(steps[0], found) == pytest.approx(steps[0].seconds, rel=0.25)
    assert all(price <= 4.01 * max(MEASURED[n], 1e-13) for n, price in found.units.items())
