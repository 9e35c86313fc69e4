"""Public keys of a plan, from the client to the server."""

from __future__ import annotations

from he_linear.ckks.keys import ClientKeys, ServerKeys, public_key_bytes
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys, ring_public_key_bytes
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels.workers import Workers
from he_linear.packings.row_blocks import Room
from hybrid.operators.exact_products import RingClient, RingParty, RingServer
from hybrid.operators.exact_rows import RowsClient, RowsServer
from hybrid.operators.exact_rows_layers import SLOT_SET
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.planning.plan import Plan
from transport.channel import Channel
from transport.randomness import SecureRandom

Rings = dict[RingParameters, RingParty]


def send_keys(
    plan: Plan, channel: Channel, randomness: SecureRandom
) -> tuple[HomomorphicClient, Rings]:
    """Client: make all keys that the plan takes, send their public halves. One frame a set."""
    keys = []
    for wanted in plan.key_sets:
        steps, relinearise = wanted.galois_steps, wanted.relinearise
        keys.append(ClientKeys.generate(wanted.parameters, steps, relinearise, randomness))
        channel.send(keys[-1].public_bytes())
    rings: Rings = {}
    for ring in plan.ring_sets:
        own = RingClientKeys(ring.parameters, ring.automorphisms, randomness)
        channel.send(own.public_bytes())
        rings[ring.parameters] = RingClient(own, randomness)
    return HomomorphicClient(keys, randomness), rings


def receive_keys(
    plan: Plan, channel: Channel, randomness: SecureRandom, threads: int = 1
) -> tuple[HomomorphicServer, Rings]:
    """Server: what `send_keys` sends, checked; evaluation on so many threads."""
    keys, workers = [], Workers(threads)
    for wanted in plan.key_sets:
        steps, relinearise = wanted.galois_steps, wanted.relinearise
        data = channel.recv(public_key_bytes(wanted.parameters, len(steps), relinearise))
        keys.append(ServerKeys.parse(wanted.parameters, data, steps, relinearise, workers))
    rings: Rings = {}
    for ring in plan.ring_sets:
        data = channel.recv(ring_public_key_bytes(ring.parameters, len(ring.automorphisms)))
        parsed = RingServerKeys.parse(ring.parameters, data, ring.automorphisms)
        rings[ring.parameters] = RingServer(parsed, randomness)
    return HomomorphicServer(keys, randomness), rings


def send_slot_keys(
    steps: tuple[int, ...], channel: Channel, randomness: SecureRandom
) -> RowsClient:
    """Client: keys for integers modulo a prime in slots. One frame."""
    keys = ClientKeys.generate(SLOT_SET, steps, False, randomness)
    channel.send(keys.public_bytes())
    return RowsClient(keys, randomness)


def receive_slot_keys(
    steps: tuple[int, ...], channel: Channel, randomness: SecureRandom, threads: int = 1
) -> RowsServer:
    """Server: what `send_slot_keys` sends, checked."""
    data = channel.recv(public_key_bytes(SLOT_SET, len(steps), False))
    keys = ServerKeys.parse(SLOT_SET, data, steps, False, Workers(threads))
    return RowsServer(keys, randomness, Room())
