"""CurveZMQ: key files, and who gets in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq

from tests.transport_pairs import ANY_PORT, dial, zmq_pair
from tests.waiting import GUARD_S
from transport import (
    ConfigError,
    CurveKeys,
    HandshakeError,
    Party,
    generate_keys,
    listen,
    load_client_keys,
    load_server_keys,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generate_keys(tmp_path / "keys")
    return tmp_path / "keys"


def refused(endpoint: str, keys: CurveKeys | None) -> str:
    with pytest.raises(HandshakeError) as caught:
        dial(endpoint, curve=keys)
    return str(caught.value)


def test_generated_files(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        "server.key",
        "server.pub",
        "client.key",
        "client.pub",
    }
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for party in ("server", "client"):
        secret = (folder / f"{party}.key").read_bytes().strip()
        assert zmq.curve_public(secret) == (folder / f"{party}.pub").read_bytes().strip()


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="never overwritten"):
        generate_keys(folder)
    for name in ("server.key", "server.pub", "client.key"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"client\.pub: exists"):
        generate_keys(folder)
    assert [path.name for path in folder.iterdir()] == ["client.pub"]
    assert (folder / "client.pub").read_bytes() == before[folder / "client.pub"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        generate_keys(tmp_path / "file" / "keys")


def test_secrets_stay_out_of_repr(folder: Path) -> None:
    keys = load_server_keys(folder)
    assert keys.secret.decode() not in repr(keys)


def test_the_right_keys_work(folder: Path) -> None:
    payload = bytes(range(256)) * 20_000
    with zmq_pair(server_keys=load_server_keys(folder), client_keys=load_client_keys(folder)) as (
        client,
        server,
    ):
        client.send(payload)
        assert server.recv() == payload
        server.send(payload)
        assert client.recv() == payload
        assert refused(server.endpoint, load_client_keys(folder)).endswith("when it has finished")


def test_every_listed_client_gets_in(folder: Path, tmp_path: Path) -> None:
    generate_keys(tmp_path / "anna")
    (folder / "client-anna.pub").write_bytes((tmp_path / "anna" / "client.pub").read_bytes())
    (tmp_path / "anna" / "server.pub").write_bytes((folder / "server.pub").read_bytes())
    anna = load_client_keys(tmp_path / "anna")
    for keys in (anna, load_client_keys(folder)):
        with zmq_pair(server_keys=load_server_keys(folder), client_keys=keys) as (client, server):
            client.send(b"in")
            assert server.recv() == b"in"


def test_who_does_not_get_in(folder: Path, tmp_path: Path) -> None:
    generate_keys(tmp_path / "strange")
    strange, own = load_client_keys(tmp_path / "strange"), load_client_keys(folder)
    unlisted = CurveKeys(strange.public, strange.secret, own.peers)
    wrong_server = CurveKeys(own.public, own.secret, strange.peers)
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S, curve=load_server_keys(folder))
    try:
        assert "does not admit our key" in refused(server.endpoint, unlisted)
        assert "server.pub" in refused(server.endpoint, wrong_server)
        assert "runtime.curve_keys" in refused(server.endpoint, None)
        # None of them took the seat.
        client = dial(server.endpoint, curve=own)
        client.send(b"in")
        assert server.recv() == b"in"
        client.close()
    finally:
        server.close()


def test_keys_against_a_server_without(folder: Path) -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    try:
        assert "uses no keys" in refused(server.endpoint, load_client_keys(folder))
    finally:
        server.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 39, b"x" * 41, b"~" * 40, b"#" * 40, b"\xff" * 40, b"x" * 5000],
    ids=["empty", "short", "long", "not z85", "overflow", "binary", "huge"],
)
def test_damaged_key_files(folder: Path, content: bytes) -> None:
    for name, load in (("server.key", load_server_keys), ("server.pub", load_client_keys)):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: not a key of 40") as caught:
            load(folder)
        assert "hybrid keygen" in str(caught.value)
        (folder / name).write_bytes(original)


def test_missing_key_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no client\*\.pub"):
        load_server_keys(tmp_path)
    with pytest.raises(ConfigError, match=r"client\.key: No such file"):
        load_client_keys(tmp_path)
    (folder / "server.pub").unlink()
    with pytest.raises(ConfigError, match=r"server\.pub: No such file"):
        load_client_keys(folder)


def test_a_secret_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "client.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_client_keys(folder)
