"""1-of-2 oblivious transfer of random 128-bit keys from public-key cryptography.

[Naor-Pinkas 01] with random messages, on the prime-order subgroup of
edwards25519; semi-honest security under CDH with BLAKE2b as a random oracle:

1. sender -> receiver: C = c*G and R = r*G
2. receiver -> sender: P_i, where P_i = k_i*G for choice 0 and C - k_i*G for choice 1
   keys: sender's H(i, 0, r*P_i) and H(i, 1, r*(C - P_i)); receiver's H(i, choice, k_i*R)

P_i is uniform whatever the choice. The other key needs r*(C - k_i*G), that is r*C.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from mpc_nonlinear.fixed_point import BitArray
from transport.channel import Channel
from transport.errors import FrameError
from transport.randomness import SecureRandom
from transport.traffic import Traffic

KEY_BYTES = 16
POINT_BYTES = 32
_SCALAR_SEED_BYTES = 64
Keys = list[bytes]


@dataclass(frozen=True, slots=True)
class BaseKeys:
    """This party's results: both keys of each OT it sends, one of each it receives."""

    sent: tuple[Keys, Keys]
    received: Keys


def base_ot_both(choices: BitArray, channel: Channel, rng: SecureRandom) -> BaseKeys:
    """Run len(choices) random OTs in each direction at once; `choices` are this party's.

    Two rounds: one exchange of 64 bytes, one of 32 bytes per OT. Both parties use equal counts.
    """
    count = len(choices)
    r, c = _scalar(rng), _scalar(rng)
    big_r, big_c = _times_base(r), _times_base(c)
    theirs = channel.exchange(big_r + big_c, 2 * POINT_BYTES)
    peer_r, peer_c = _points(theirs)
    secrets = [_scalar(rng) for _ in range(count)]
    requests = []
    for secret, choice in zip(secrets, choices, strict=True):
        point = _times_base(secret)
        # Both are computed, so that the time does not depend on the choice.
        other = sodium.crypto_core_ed25519_sub(peer_c, point)
        requests.append((point, other)[int(choice)])
    data = channel.exchange(b"".join(requests), count * POINT_BYTES)
    received = [
        _key(i, int(choice), peer_r, request, _times(secret, peer_r))
        for i, (secret, choice, request) in enumerate(zip(secrets, choices, requests, strict=True))
    ]
    return BaseKeys(_sender_keys(_points(data), r, big_r, _times(r, big_c)), received)


def base_ot_traffic(count: int) -> Traffic:
    """Exact traffic of `base_ot_both` with `count` OTs in each direction."""
    size = count * POINT_BYTES
    return Traffic.exchange(2 * POINT_BYTES, 2 * POINT_BYTES) + Traffic.exchange(size, size)


def _sender_keys(
    requests: list[bytes], r: bytes, big_r: bytes, r_times_c: bytes
) -> tuple[Keys, Keys]:
    """Keys of choice 0 and of choice 1 for each request."""
    keys: tuple[Keys, Keys] = ([], [])
    for i, request in enumerate(requests):
        shared = _times(r, request)
        keys[0].append(_key(i, 0, big_r, request, shared))
        other = sodium.crypto_core_ed25519_sub(r_times_c, shared)
        keys[1].append(_key(i, 1, big_r, request, other))
    return keys


def _points(data: bytes) -> list[bytes]:
    """Split untrusted bytes into points of the prime-order subgroup, or refuse them."""
    points = [data[i : i + POINT_BYTES] for i in range(0, len(data), POINT_BYTES)]
    for i, point in enumerate(points):
        if not sodium.crypto_core_ed25519_is_valid_point(point):
            raise FrameError(
                f"base OT: the peer's point {i} is not in the prime-order group; "
                "is the peer this program?"
            )
    return points


def _scalar(rng: SecureRandom) -> bytes:
    """Draw a uniform scalar; zero has probability 2^-252."""
    return sodium.crypto_core_ed25519_scalar_reduce(rng.bytes(_SCALAR_SEED_BYTES))


def _times_base(scalar: bytes) -> bytes:
    return sodium.crypto_scalarmult_ed25519_base_noclamp(scalar)


def _times(scalar: bytes, point: bytes) -> bytes:
    try:
        return sodium.crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError as error:
        raise FrameError("base OT: a product is the neutral element; start again") from error


def _key(index: int, bit: int, big_r: bytes, request: bytes, shared: bytes) -> bytes:
    transcript = index.to_bytes(4, "little") + bytes([bit]) + big_r + request + shared
    return hashlib.blake2b(transcript, digest_size=KEY_BYTES, person=b"base-ot").digest()
