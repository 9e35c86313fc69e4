"""Why one config is faster: every statement against rows where the answer is known."""

from __future__ import annotations

import pytest

from hybrid.reports.comparison.reasons import reasons, sentences
from hybrid.reports.comparison.words import seconds

DEALER = ["WEAKER TRUST: a third party", "semi-honest"]


def step(op, phase, took, *, protocol="p", multiply="", name=None):
    return {
        "op": op, "phase": phase, "protocol": protocol, "multiply": multiply,
        "name": name or f"layer0.{op}", "measured": {"seconds": took},
    }  # fmt: skip


def row(name, offline, online, steps, *, link="lan", trust=("semi-honest",), encoded=None):
    return {
        "name": name, "link": link, "trust_model": list(trust), "steps": steps,
        "offline": {"seconds": offline}, "online": {"seconds": online},
        "total": {"seconds": offline + online}, "encoded_bytes": encoded,
    }  # fmt: skip


OURS = row(
    "ours", 3.0, 2.0,
    [
        step("correlations", "offline", 0.5, protocol="ferret", name="correlations"),
        step("linear", "offline", 2.5, protocol="periodic", name="prepare layer0.linear"),
        step("linear", "online", 0.1, protocol="periodic"),
        step("softmax", "online", 1.9, protocol="poly", multiply="ckks"),
    ],
    encoded=1_000_000_000,
)  # fmt: skip
BLB = row(
    "blb", 0.5, 3.5,
    [
        step("correlations", "offline", 0.5, protocol="ferret", name="correlations"),
        step("linear", "online", 1.5, protocol="columns"),
        step("softmax", "online", 2.0, protocol="poly", multiply="ckks"),
    ],
    encoded=4_000_000_000,
)  # fmt: skip
PURE = row(
    "pure", 0.5, 0.5,
    [
        step("correlations", "offline", 0.5, protocol="dealer", name="correlations"),
        step("linear", "online", 0.1, protocol="beaver"),
        step("softmax", "online", 0.4, protocol="poly", multiply="dealer"),
    ],
    trust=DEALER,
)  # fmt: skip
SLOW = row(
    "slow", 0.5, 9.5,
    [
        step("correlations", "offline", 0.5, protocol="ferret", name="correlations"),
        step("linear", "online", 7.5, protocol="periodic"),
        step("softmax", "online", 2.0, protocol="poly", multiply="ckks"),
    ],
)  # fmt: skip


def entry(*rows):
    (found,) = reasons([OURS, *rows], "ours")
    return found


def test_differences_are_signed_by_phase_and_group():
    (other,) = entry(BLB)["others"]
    assert other["difference_s"] == pytest.approx(-1.0)
    assert other["offline_s"] == pytest.approx(-2.5)
    assert other["online_s"] == pytest.approx(1.5)
    assert other["ratio"] == pytest.approx(0.8)
    groups = other["groups"]
    assert list(groups)[:2] == ["prepared", "linear"]
    assert groups["prepared"] == pytest.approx(-2.5)
    assert groups["linear"] == pytest.approx(1.4)
    assert groups["softmax"] == pytest.approx(0.1)
    assert not other["weaker_trust"]


def test_only_different_choices_are_told():
    (other,) = entry(BLB)["others"]
    assert other["choices"] == [
        {"op": "linear", "reference": "periodic (prepared)", "other": "columns"}
    ]
    (dealt,) = entry(PURE)["others"]
    assert {c["op"] for c in dealt["choices"]} == {"correlations", "linear", "softmax"}


def test_a_faster_config_is_explained():
    _, line = sentences(entry(BLB), seconds)
    assert "blb is faster than ours by 1.00 s (0.80 times as long" in line
    assert "offline -2.50 s, online +1.50 s" in line
    assert "linear, prepared -2.50 s, linear +1.40 s" in line
    assert "linear by columns instead of periodic (prepared)" in line
    assert "encoded weights take 4.00 GB, those of ours 1.00 GB" in line
    assert "third party" not in line


def test_a_dealer_is_said_to_be_weaker_trust_and_set_apart():
    found = entry(PURE, BLB)
    assert [o["name"] for o in found["others"]] == ["pure", "blb"]
    head, pure, _ = sentences(found, seconds)
    assert "trusts a third party, which could unmask everything" in pure
    assert head.startswith("Fastest online: pure, 0.500 s.")
    assert "blb is fastest in all, 4.00 s, and ours online, 2.00 s" in head


def test_a_slower_config_names_what_costs_most():
    head, line = sentences(entry(SLOW), seconds)
    assert head == "Fastest online: ours, 2.00 s."
    assert line.startswith("slow takes 5.00 s more than ours (2.00 times as long): linear +7.40 s")


def test_steps_that_both_carry_alike_are_told_apart():
    (other,) = entry(BLB)["others"]
    # Correlations and softmax; the linear layer takes another packing.
    assert other["alike_s"] == pytest.approx(0.1)
    _, line = sentences(entry(BLB), seconds)
    assert "Of this +0.100 s in steps that both carry alike: the machine" in line
    more = [{**s, "measured": {**s["measured"], "rounds": 3}} for s in BLB["steps"]]
    (other,) = entry({**BLB, "steps": more})["others"]
    assert other["alike_s"] == 0
    _, line = sentences(entry({**BLB, "steps": more}), seconds)
    assert "alike" not in line


def test_links_are_apart_and_need_the_reference():
    there = {**BLB, "link": "wan2"}
    assert [e["link"] for e in reasons([OURS, BLB, there], "ours")] == ["lan"]
    both = reasons([OURS, {**OURS, "link": "wan2"}, there], "ours")
    assert [(e["link"], len(e["others"])) for e in both] == [("lan", 0), ("wan2", 1)]
    assert reasons([], "ours") == []
