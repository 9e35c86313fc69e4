"""`hybrid doctor`: versions, features, and short self tests against SEAL."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tenseal.sealapi as seal
from rich.console import Console

from he_linear.ckks import ciphertexts as conversions
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.ckks.rotation import rotate
from hybrid.cli.progress import say
from hybrid.machine.environment import describe
from hybrid.machine.prices import cache_file, fingerprint, load
from mpc_nonlinear.correlations import SOURCES
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.cost import OtCount
from transport.channel import Channel
from transport.errors import ConfigError, HybridError
from transport.local import run_both
from transport.randomness import SecureRandom

_FRACTION_BITS = 16
_TEST_OTS = 1 << 14


class SelfTestError(HybridError):
    """A self test gave a wrong result on this machine."""


def report(console: Console) -> None:
    """Print versions and features, run the self tests; `SelfTestError` when one fails."""
    for key, value in describe().items():
        say(console, f"{key:<20} {value}")
    say(console, f"{'parameter sets':<20} {', '.join(PARAMETER_SETS)}")
    say(console, f"{'correlations':<20} {', '.join(s.name for s in SOURCES)}")
    for line in _calibration_lines():
        say(console, line)
    tests: tuple[tuple[str, Callable[[], str]], ...] = (
        ("SEAL interchange", seal_interchange),
        ("conversions", conversion_round_trip),
        ("oblivious transfer", oblivious_transfer),
    )
    for name, test in tests:
        start = time.perf_counter()
        detail = test()
        say(console, f"{name:<20} ok: {detail} ({time.perf_counter() - start:.2f} s)")


def _calibration_lines() -> list[str]:
    try:
        prices = load(cache_file())
    except ConfigError as error:
        return [f"{'calibration':<20} {error}"]
    if prices is None:
        return [f"{'calibration':<20} none; `hybrid calibrate` makes one for predicted seconds"]
    if prices.machine != fingerprint():
        when = f"of {prices.date}, of another machine or other versions"
        return [f"{'calibration':<20} {when}; run `hybrid calibrate` again"]
    return prices.lines()


def seal_interchange() -> str:
    """A ciphertext made and rotated here decrypts in SEAL."""
    client, server = _keys((1,))
    values = np.arange(client.parameters.slots) % 100
    residues = conversions.encode_integers(
        values[None].astype(np.int64), None, 2.0**26, client.parameters
    )
    data = conversions.encrypt_seeded(residues, client, SecureRandom())
    ciphertext = conversions.parse_seeded(data, 1, client.parameters)[0]
    rotated = client.seal.to_ciphertext(rotate(ciphertext, 1, server), 2.0**26)
    plain = seal.Plaintext()
    decryptor = seal.Decryptor(client.seal.context, client.seal_secret_key)
    decryptor.decrypt(rotated, plain)
    decoded = np.array(seal.CKKSEncoder(client.seal.context).decode_double(plain))
    error = float(np.abs(decoded - np.roll(values, -1)).max())
    if error > 2.0**-8:
        raise SelfTestError(
            f"doctor: SEAL decrypts our ciphertext {error:g} off; reinstall tenseal"
        )
    return f"SEAL decrypts what we encrypt and rotate, error {error:.1e}"


def conversion_round_trip() -> str:
    """Numbers go into a ciphertext and come back as two shares."""
    client, server = _keys(())
    parameters = client.parameters
    values = np.linspace(-8, 8, parameters.slots)
    integers = np.rint(values * 2.0**_FRACTION_BITS).astype(np.int64)[None]
    rng = SecureRandom()
    scale = 2.0**50
    residues = conversions.encode_integers(integers, None, scale / 2.0**_FRACTION_BITS, parameters)
    data = conversions.encrypt_seeded(residues, client, rng)
    ciphertexts = conversions.parse_seeded(data, 1, parameters)
    message, mask = conversions.mask_for_client(ciphertexts, server, rng)
    switched = conversions.switched_scale(scale, parameters)
    shares = [
        conversions.decode_coefficients(c, switched, _FRACTION_BITS, parameters)[0]
        for c in (conversions.unmask(message, 1, client), mask)
    ]
    error = float(np.abs((shares[0] + shares[1]).view(np.int64) - integers).max())
    if error > 4:
        raise SelfTestError(f"doctor: a conversion is {error:g} units off; is this CPU x86-64?")
    return f"shares of 4096 numbers, at most {error:g} units off"


def oblivious_transfer() -> str:
    """Both halves of extended oblivious transfers fit together."""

    def role(channel: Channel) -> tuple[np.ndarray, np.ndarray]:
        source = SoftSpokenSource(channel.party, SecureRandom())
        source.setup(channel)
        source.produce(OtCount(_TEST_OTS, 0), channel)
        if channel.party == 0:
            sender = source.take_sender(_TEST_OTS)
            return sender.blocks, sender.delta
        receiver = source.take_receiver(_TEST_OTS)
        return receiver.blocks, receiver.choices

    (q, delta), (t, choices), _ = run_both(role)
    if not np.array_equal(q ^ t, choices[:, None].astype(np.uint64) * delta):
        raise SelfTestError(
            "doctor: oblivious transfers do not fit together; reinstall cryptography"
        )
    return f"{_TEST_OTS} extended transfers between two threads"


def _keys(steps: tuple[int, ...]) -> tuple[ClientKeys, ServerKeys]:
    parameters = PARAMETER_SETS["n8192_q88"]
    client = ClientKeys.generate(parameters, steps, False, SecureRandom())
    return client, ServerKeys.parse(parameters, client.public_bytes(), steps, False)
