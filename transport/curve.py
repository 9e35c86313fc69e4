"""CurveZMQ key files: who this party is, and whom it talks to."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from transport.errors import ConfigError
from transport.traffic import Party

KEY_BYTES = 40
"""A Curve25519 key of 32 bytes in Z85 text, as ZeroMQ takes it."""
_FILE_BYTES = 4096
_NEW_KEYS = "make new keys with `hybrid keygen DIR`"


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """One party's long-term key pair and the public keys of the peers it accepts."""

    public: bytes
    secret: bytes = field(repr=False)
    peers: frozenset[bytes]
    """A client's single server; a server's admitted clients."""


def generate_keys(directory: Path) -> None:
    """Write server.key, server.pub, client.key and client.pub into `directory`.

    Each file is one line of Z85 text; the secret ones (.key) are readable by their owner
    alone. Existing files are never overwritten. More clients: generate in another folder
    and copy its client.pub to the server's folder under a name like client-anna.pub.
    """
    names = [f"{party.name.lower()}.{kind}" for party in Party for kind in ("key", "pub")]
    for name in names:
        if (directory / name).exists() or (directory / name).is_symlink():
            raise ConfigError(
                f"{directory / name}: exists; keys are never overwritten, name another folder"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for party in Party:
            public, secret = zmq.curve_keypair()
            _write(directory / f"{party.name.lower()}.key", secret, 0o600)
            _write(directory / f"{party.name.lower()}.pub", public, 0o644)
    except OSError as error:
        raise ConfigError(
            f"{directory}: keys cannot be written ({error.strerror}); name another folder"
        ) from None


def load_server_keys(directory: Path) -> CurveKeys:
    """The server's identity, server.key, and every client*.pub as admitted clients."""
    admitted = sorted(directory.glob("client*.pub"))
    if not admitted:
        raise ConfigError(
            f"{directory}: no client*.pub, so no client would be admitted; copy the clients' "
            f"public keys there or {_NEW_KEYS}"
        )
    secret = _read_secret(directory / "server.key")
    peers = frozenset(_read_key(path) for path in admitted)
    return CurveKeys(zmq.curve_public(secret), secret, peers)


def load_client_keys(directory: Path) -> CurveKeys:
    """The client's identity, client.key, and the one server it trusts, server.pub."""
    secret = _read_secret(directory / "client.key")
    return CurveKeys(
        zmq.curve_public(secret), secret, frozenset({_read_key(directory / "server.pub")})
    )


def _write(path: Path, key: bytes, mode: int) -> None:
    # O_EXCL: a file or link that appeared since the check is not followed or truncated.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key + b"\n")


def _read_secret(path: Path) -> bytes:
    key = _read_key(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others may read this secret key; run `chmod 600 {path}`")
    return key


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            key = file.read(_FILE_BYTES).strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {_NEW_KEYS} or copy the file here") from None
    # The content stays out of the message: it may be a secret.
    if not _is_key(key):
        raise ConfigError(f"{path}: not a key of {KEY_BYTES} Z85 characters; {_NEW_KEYS}")
    return key


def _is_key(key: bytes) -> bool:
    """Whether `key` is canonical Z85 of 32 bytes (the decoder alone accepts overflows)."""
    if len(key) != KEY_BYTES:
        return False
    try:
        return bool(z85.encode(z85.decode(key)) == key)
    except Exception:
        return False
