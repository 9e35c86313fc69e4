"""Whole sessions between real processes: values, bytes, rounds, separation, failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.processes import KEYS, ROOT, ended, finish, hybrid, relay, run, serving
from tests.tiny_model import TEXT, write_tiny_config
from tests.waiting import wait_until

PHASES = ("setup", "offline", "online", "total")


def sent_bytes(report: dict) -> int:
    counted = report["counted"]
    return sum(counted["session_at_client"][key] for key in KEYS[:2]) + counted["dealer_bytes"]


def check_report(report: dict) -> None:
    for phase in PHASES:
        assert set(report[phase]) >= {"seconds", *KEYS}
    for step in report["steps"]:
        assert step["predicted"] == {key: step["measured"][key] for key in KEYS}, step["name"]
    for key in KEYS:
        total = report["setup"][key] + sum(step["measured"][key] for step in report["steps"])
        assert report["total"][key] == report["offline"][key] + report["online"][key]
        assert total == report["counted"]["session_at_client"][key]
        assert total == report["counted"]["session_at_server"][key]
    device = report["counted"]["loopback_device_bytes"]
    assert device is None or device >= sent_bytes(report)
    assert 0 < report["failure_probability"] < 2**-20
    assert all(isinstance(line, str) for line in report["trust_model"])


def check_device(report: dict) -> None:
    device = report["counted"]["loopback_device_bytes"]
    # TCP/IP headers, acknowledgements, and whatever else uses the device meanwhile.
    assert device is None or device <= 2 * sent_bytes(report) + 20e6


@pytest.mark.long
@pytest.mark.parametrize(
    "correlations",
    [
        # Without and with a dealer, nothing but what was counted travels.
        pytest.param("ferret", marks=[pytest.mark.alone, pytest.mark.smoke]),
        pytest.param("dealer", marks=pytest.mark.alone),
        "softspoken",
        "iknp",
    ],
)
def test_two_processes_agree_with_the_plain_model(tmp_path, correlations, request):
    config = write_tiny_config(tmp_path, correlations=correlations)
    code, output = finish(hybrid("run", config, "--out", "out", cwd=tmp_path))
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    check_report(report)
    if request.node.get_closest_marker("alone"):
        check_device(report)
    assert report["accuracy"]["cosine"] >= 0.999
    assert abs(np.linalg.norm(report["output"]) - 1) < 1e-9
    weaker = any("WEAKER TRUST" in line for line in report["trust_model"])
    assert weaker == (correlations == "dealer")
    assert (report["counted"]["dealer_bytes"] > 0) == (correlations == "dealer")
    assert TEXT not in json.dumps(report)
    assert "| layer0.gelu |" in (tmp_path / "out" / "report.md").read_text()
    assert "cosine" in output


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        # Choices that do not meet in one operator share a run.
        {
            "linear: token_periodic": "linear: coefficients",
            "phase: offline": "phase: online",
            "gelu: even_polynomial": "gelu: bolt",
            "squared_polynomial": "bolt",
        },
        {
            "linear: token_periodic": "linear: column_bsgs",
            "phase: offline": "phase: online",
            "attention: rotated_slots": "attention: coefficients",
        },
        {
            "linear: token_periodic": "linear: coefficients_interleaved",
            "phase: offline": "phase: online",
            "gelu: even_polynomial": "gelu: bumblebee",
            "squared_polynomial": "bumblebee",
        },
        {"linear_phase: offline": "linear_phase: online"},
        {"linear_phase: offline": "linear_phase: online, exact: true", "cheapest": "ckks"},
        {
            "timeout_s: 600.0": "timeout_s: 600.0, threads: 2, weights_memory_gb: 0",
            "baby_steps: 8": "baby_steps: auto",
            "multiply: cheapest": "multiply: ot",
        },
    ],  # fmt: skip
    ids=lambda changes: "; ".join(changes.values()),
)
def test_every_choice_of_the_config_works(tmp_path, changes):
    config = write_tiny_config(tmp_path)
    text = config.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    check_report(report)
    assert report["accuracy"]["cosine"] >= 0.999


def test_prepared_layers_cannot_be_exact(tmp_path):
    config = write_tiny_config(tmp_path)
    config.write_text(config.read_text().replace("linear_phase:", "exact: true, linear_phase:"))
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 2
    assert "set ckks.linear_phase: online" in output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("linear: token_periodic", "linear: column_bsgs", "column_bsgs cannot be prepared offline"),
        ("linear: token_periodic", "linear: halevi_shoup", "cannot be prepared offline"),
        ("linear: token_periodic", "linear: coefficients", "cannot be prepared offline"),
        ("parameters: n8192_q88", "parameters: n8192_q182", "no set for rotations is called"),
    ],
)
def test_choices_that_do_not_fit_are_refused_by_the_plan(tmp_path, old, new, words):
    config = write_tiny_config(tmp_path)
    config.write_text(config.read_text().replace(old, new))
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 2
    assert words in " ".join(output.split())


@pytest.mark.long
def test_the_opened_value_hides_the_noise(tmp_path):
    """One text twice: exact rounding leaves few entries that depend on the ciphertexts' noise."""
    config = write_tiny_config(tmp_path)
    config.write_text(config.read_text().replace("normalize: true", "normalize: false"))
    code, output = run("run", config, "--text", TEXT, "--text", TEXT, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    paths = [tmp_path / "out" / name / "report.json" for name in (".", "text2")]
    first, second = (np.array(json.loads(path.read_text())["output"]) for path in paths)
    assert np.mean(first != second) <= 0.25
    # The opened sums lie on the grid of 2^-6, and neighbouring steps are the worst.
    tokens = 8
    assert np.allclose(first * tokens * 64, np.rint(first * tokens * 64))
    assert np.abs(first - second).max() * tokens * 64 <= 1.001


@pytest.mark.long
def test_one_layer_of_minilm(tmp_path, minilm):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(minilm / "tokenizer.json", folder)
    described = json.loads((minilm / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(described))
    kept = {
        name: tensor
        for name, tensor in load_file(minilm / "model.safetensors").items()
        if name.startswith(("embeddings.", "encoder.layer.0."))
    }
    save_file(kept, folder / "model.safetensors")
    config = write_tiny_config(tmp_path / "run", model=folder)
    code, output = run("run", config, "--text", "private inference", "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    check_report(report)
    assert report["accuracy"]["cosine"] >= 0.999


@pytest.mark.slow
def test_all_of_minilm_on_five_sentences(tmp_path, minilm):  # noqa: ARG001
    config = ROOT / "configs" / "minilm.yaml"
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    paths = sorted((tmp_path / "out").rglob("report.json"))
    assert len(paths) == 5
    for path in paths:
        report = json.loads(path.read_text())
        assert report["accuracy"]["cosine"] >= 0.999
        sent = report["total"]["client_sent_bytes"] + report["total"]["server_sent_bytes"]
        assert sent <= 400e6
        for step in report["steps"]:
            assert step["predicted"] == {key: step["measured"][key] for key in KEYS}


def split_parties(folder: Path) -> tuple[Path, Path]:
    """Configs of a server without texts and of a client without weights."""
    config = write_tiny_config(folder / "server")
    (folder / "server" / "texts.txt").unlink()
    client = folder / "client"
    shutil.copytree(folder / "server", client)
    (client / "model" / "model.safetensors").unlink()
    (client / "samples.txt").unlink()
    return config, client / config.name


def serve_and_query(server: Path, client: Path) -> tuple[tuple[int, str], tuple[int, str]]:
    served, endpoint = serving(server, "--out", "out")
    asked = hybrid(
        "query", client, "--connect", endpoint, "--text", TEXT, "--out", "out", cwd=client.parent
    )
    return finish(served), finish(asked)


@pytest.mark.long
def test_the_server_needs_no_text_and_the_client_no_weights(tmp_path):
    server, client = split_parties(tmp_path)
    served, asked = serve_and_query(server, client)
    assert served[0] == 0, served[1]
    assert asked[0] == 0, asked[1]
    assert TEXT not in served[1]
    report = json.loads((server.parent / "out" / "report.json").read_text())
    assert not {"accuracy", "output"} & set(report)
    assert TEXT not in json.dumps(report)
    answer = json.loads((client.parent / "out" / "report.json").read_text())
    assert len(answer["output"]) == 24
    assert "accuracy" not in answer


@pytest.mark.long
def test_keys_made_by_keygen_protect_a_session(tmp_path):
    for name in ("keys", "others"):
        code, output = run("keygen", tmp_path / name, cwd=tmp_path)
        assert code == 0, output
    server, client = split_parties(tmp_path)
    keyed = "runtime: {timeout_s: 600.0, pin_cores: false, curve_keys: ../keys}"
    for config in (server, client):
        config.write_text(re.sub("runtime: .*", keyed, config.read_text()))
    served, asked = serve_and_query(server, client)
    assert (served[0], asked[0]) == (0, 0), served[1] + asked[1]


@pytest.mark.long
def test_a_peer_with_another_config_is_named(tmp_path):
    server, client = split_parties(tmp_path)
    client.write_text(client.read_text().replace("output_bits: 6", "output_bits: 5"))
    for (code, output), (here, there) in zip(
        serve_and_query(server, client), (("6", "5"), ("5", "6")), strict=True
    ):
        assert code == 2
        said = f"config key mpc.output_bits is {here} at this party and {there} at the peer"
        assert said in " ".join(output.split())


@pytest.mark.long
@pytest.mark.parametrize("victim", ["serve", "query"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_peer_ends_the_run(tmp_path, victim, how):
    server, client = split_parties(tmp_path)
    for config in (server, client):
        # The receive timeout is far away: only the connection can tell.
        config.write_text(config.read_text().replace("timeout_s: 600.0", "timeout_s: 36000.0"))
    served, endpoint = serving(server)
    # Keys and what is prepared take less than a megabyte of the server's: it is in the layers.
    with ended(served), relay(endpoint, hold_after=1_200_000) as between:
        to = ("--connect", between.endpoint)
        asking = hybrid("query", client, *to, "--text", TEXT, cwd=client.parent)
        with ended(asking):
            wait_until(lambda: between.held.is_set() or asking.poll() is not None, "the layers")
            assert between.held.is_set(), asking.communicate()
            hit, survivor = (served, asking) if victim == "serve" else (asking, served)
            assert hit.poll() is None
            os.killpg(hit.pid, how)
            between.released.set()
            code, output = finish(survivor)
            assert code == 2, output
            assert "is gone" in output


@pytest.mark.long
def test_an_occupied_port_is_named(tmp_path):
    config = write_tiny_config(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        code, output = run("serve", config, "--listen", endpoint, cwd=tmp_path)
    assert code == 2
    assert endpoint in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "none.yaml: cannot be read"),
        (["run", "tiny.yaml", "--text", "a " * 30], "--truncate"),
        (["run", "tiny.yaml", "--out", "/proc/none"], "--out /proc/none: cannot be written"),
        pytest.param(
            ["serve", "tiny.yaml", "--listen", "tcp://0.0.0.0:5999"],
            "hybrid keygen",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["query", "tiny.yaml", "--connect", "here"], "not an address", marks=pytest.mark.long
        ),
        (["run"], "Missing argument"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(tmp_path, arguments, message):
    write_tiny_config(tmp_path)
    code, output = run(*arguments, cwd=tmp_path)
    assert code == 2
    assert message in output


def test_plan_and_doctor(tmp_path, monkeypatch):
    config = write_tiny_config(tmp_path)
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 0
    for word in ("layer0.qkv", "token_periodic", "sum of failure probabilities", "plan hash"):
        assert word in output
    monkeypatch.setenv("MKL_NUM_THREADS", "[/red]1")
    code, output = run("doctor", cwd=tmp_path)
    assert code == 0
    assert output.count(" ok: ") == 3
    assert "MKL_NUM_THREADS=[/red]1" in output
