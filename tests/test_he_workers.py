"""Threads over ciphertexts keep order, run at the same time, and pass errors on."""

import threading

import numpy as np
import pytest

from he_linear.ckks.keys import ServerKeys
from he_linear.kernels.workers import SERIAL, Workers
from he_linear.packings.token_periodic import TokenPeriodicPacking
from tests.he_setup import PARAMETERS, keys
from tests.waiting import GUARD_S
from transport.errors import UsageError


@pytest.mark.parametrize("workers", [SERIAL, Workers(2), Workers(5)])
def test_results_keep_their_order(workers):
    assert list(workers.map(lambda x: x * x, iter(range(100)))) == [x * x for x in range(100)]
    assert list(workers.map(str, [])) == []


def test_two_items_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=GUARD_S)
    assert sorted(Workers(2).map(lambda _: meeting.wait(), range(2))) == [0, 1]


def test_errors_reach_the_caller():
    def fail(x):
        raise UsageError(f"item {x}")

    with pytest.raises(UsageError, match="item 0"):
        list(Workers(3).map(fail, range(3)))
    with pytest.raises(UsageError, match="1 or more"):
        Workers(0)


def test_threads_change_no_bit_of_a_result():
    packing = TokenPeriodicPacking(PARAMETERS, 40, 200, 200, baby_steps=4)
    client, one = keys(packing.galois_steps)
    three = ServerKeys.parse(
        PARAMETERS, client.public_bytes(), packing.galois_steps, True, Workers(3)
    )
    rng = np.random.default_rng(0)
    encoded = packing.encode_weights(rng.normal(0, 0.1, (200, 200)))
    shape = (packing.input_ciphertexts, 2, len(PARAMETERS.primes), PARAMETERS.poly_degree)
    inputs = rng.integers(0, 2**43, shape).astype(np.uint64)
    assert np.array_equal(
        packing.evaluate(inputs, encoded, one), packing.evaluate(inputs, encoded, three)
    )
