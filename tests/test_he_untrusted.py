"""Bytes from the network: wrong sizes and residues beyond their primes give one clear error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ClientKeys, ServerKeys, public_key_bytes
from he_linear.ckks.rotation import relinearise, rotate
from tests.he_setup import PARAMETERS, SLOTS, N, Operand, keys, upload
from transport.errors import FrameError, HybridError, UsageError
from transport.randomness import SecureRandom

STEPS = (1, -256)


@pytest.fixture(scope="module")
def messages():
    """Each kind of message, and what parses it."""
    client, server = keys(STEPS)
    operand = Operand(np.zeros((1, SLOTS), np.int64), None, 1.0)
    encrypted = he.encrypt_seeded(operand.residues(), client, SecureRandom())
    masked, _ = he.mask_for_client(upload(operand, client), server, SecureRandom())
    return {
        "keys": (
            client.public_bytes(),
            lambda data: ServerKeys.parse(PARAMETERS, data, STEPS, True),
        ),
        "input": (encrypted, lambda data: he.parse_seeded(data, 1, PARAMETERS)),
        "result": (masked, lambda data: he.unmask(data, 1, client)),
    }


@pytest.mark.parametrize("kind", ["keys", "input", "result"])
def test_wrong_sizes(messages, kind):
    data, parse = messages[kind]
    parse(data)
    for wrong in (b"", data[:-1], data + b"\0", data[: len(data) // 2]):
        with pytest.raises(FrameError, match="expected"):
            parse(wrong)


@pytest.mark.parametrize("kind", ["keys", "input"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_residues_beyond_their_primes(messages, kind, place):
    data, parse = messages[kind]
    at = int(len(data) * place)
    with pytest.raises(FrameError, match="exceeds its prime"):
        parse(data[:at] + b"\xff" * 16 + data[at + 16 :])


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=64), st.sampled_from(["input", "result"]))
def test_junk_never_escapes_as_another_exception(junk, kind):
    client = keys(STEPS)[0]
    size = {"input": he.encrypted_bytes, "result": he.masked_bytes}[kind](1, PARAMETERS)
    data = (junk * (size // max(len(junk), 1) + 1))[:size]
    try:
        if kind == "input":
            parsed = he.parse_seeded(data, 1, PARAMETERS)
            assert (parsed < np.array(PARAMETERS.primes, np.uint64)[:, None]).all()
        else:
            he.unmask(data, 1, client)
    except HybridError:
        pass


@pytest.mark.parametrize("relinearisation", [False, True])
@pytest.mark.parametrize("steps", [(), (1,), STEPS])
def test_key_bytes_have_the_declared_length(steps, relinearisation):
    client = ClientKeys.generate(PARAMETERS, steps, relinearisation, SecureRandom())
    data = client.public_bytes()
    assert len(data) == public_key_bytes(PARAMETERS, len(steps), relinearisation)
    assert len(ServerKeys.parse(PARAMETERS, data, steps, relinearisation).rotation_keys) == len(
        steps
    )


def test_public_bytes_and_reprs_do_not_carry_the_secret():
    client, server = keys(STEPS)
    secret = client.secret_residues
    assert secret[0, :8].tobytes() not in client.public_bytes()
    assert str(int(secret[0, 0])) not in repr(client)
    assert not np.array_equal(server.public_key[0], secret)


def test_a_missing_key_is_named():
    client = ClientKeys.generate(PARAMETERS, (1,), False, SecureRandom())
    server = ServerKeys.parse(PARAMETERS, client.public_bytes(), (1,), False)
    ciphertext = upload(Operand(np.zeros((1, SLOTS), np.int64), None, 1.0), client)[0]
    with pytest.raises(UsageError, match="rotation by 2 slots"):
        rotate(ciphertext, 2, server)
    with pytest.raises(UsageError, match="relinearisation"):
        relinearise(np.zeros((1, 3, 2, N)), server)
