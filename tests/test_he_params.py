"""Parameters below 128-bit security, or that the conversions cannot use, are refused."""

import math
import pickle

import pytest
import tenseal.sealapi as seal

from he_linear.ckks.keys import ClientKeys
from he_linear.ckks.parameters import (
    MAX_MODULUS_BITS,
    PARAMETER_SETS,
    CkksParameters,
    set_for_products,
)
from transport.errors import ParameterError
from transport.randomness import SecureRandom


def test_named_sets_are_as_seal_chooses_them():
    for p in PARAMETER_SETS.values():
        sizes = [*p.prime_bits, p.special_prime_bits]
        created = [m.value() for m in seal.CoeffModulus.Create(p.poly_degree, sizes)]
        assert sorted(p.all_primes) == sorted(created)
        assert [q.bit_length() for q in p.all_primes] == sizes
        assert p.modulus == math.prod(p.all_primes[:-1])
        assert p.base.primes == p.primes[:2]
        assert p.reduced(2).primes == p.primes[:3]
        assert p.reduced(p.levels) == p
        assert p.total_modulus_bits <= MAX_MODULUS_BITS[p.poly_degree]
        assert p.slots == p.poly_degree // 2


@pytest.mark.parametrize(
    ("degree", "primes", "special", "word"),
    [
        (4096, (44, 44), 49, "128-bit"),
        (8192, (44, 44, 44, 44), 49, "128-bit"),
        (1000, (44, 44), 49, "poly_degree"),
        (8192, (44,), 49, "two data primes"),
        (8192, (44, 50), 50, "40 to 49"),
        (8192, (-44, 44), 49, "40 to 49"),
        (8192, (44, 44), 20, "24 to 49"),
        (8192, (44, 44, 20), 49, "24 to 49"),
        (8192, (40, 40), 44, "too small"),
    ],
)
def test_refused(degree, primes, special, word):
    with pytest.raises(ParameterError, match=word):
        CkksParameters(degree, primes, special)


def test_rotations_need_a_large_special_prime():
    with pytest.raises(ParameterError, match="special prime"):
        ClientKeys.generate(CkksParameters(8192, (44, 44), 40), (1,), False, SecureRandom())


def test_the_planner_takes_the_cheapest_set_with_room():
    assert set_for_products(1) is PARAMETER_SETS["n8192_q88"]
    assert set_for_products(4) is PARAMETER_SETS["n8192_q182"]
    with pytest.raises(ParameterError, match="room for 4"):
        set_for_products(5)


def test_pickles_to_an_equal_object():
    p = PARAMETER_SETS["n8192_q88"]
    assert pickle.loads(pickle.dumps(p)) == p
    assert pickle.loads(pickle.dumps(p)).primes == p.primes
