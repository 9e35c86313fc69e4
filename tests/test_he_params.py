"""Parameters below 128-bit security, or that the conversions cannot use, are refused."""

import pickle

import pytest
import tenseal.sealapi as seal

from he_linear.params import MAX_MODULUS_BITS, PARAMETER_SETS, CkksParameters
from transport.errors import ParameterError


def test_named_sets_are_as_seal_chooses_them():
    for p in PARAMETER_SETS.values():
        sizes = [*p.prime_bits, p.special_prime_bits]
        created = [m.value() for m in seal.CoeffModulus.Create(p.poly_degree, sizes)]
        assert [*p.all_primes] == created
        assert p.modulus == created[0] * created[1]
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
        (8192, (44, 44), 40, "special prime"),
        (8192, (40, 40), 44, "too small"),
    ],
)
def test_refused(degree, primes, special, word):
    with pytest.raises(ParameterError, match=word):
        CkksParameters(degree, primes, special)


def test_pickles_to_an_equal_object():
    p = PARAMETER_SETS["n8192_q88"]
    assert pickle.loads(pickle.dumps(p)) == p
    assert pickle.loads(pickle.dumps(p)).primes == p.primes
