"""What ends an answer: a killed or hung peer, a user who has had enough."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.generation_setup import write_generation_config
from tests.processes import ended, finish, hybrid, lines_of, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.long
TOKEN = re.compile(r"^ +\d+\.\d\d s  ")
LONG = {"positions": 200, "max_new_tokens": 150, "stop_early": False}
"""Such an answer is under way for as long as a test needs, and far from its end."""
PATIENCE = "runtime: {timeout_s: 36000.0, pin_cores: false}\n"
"""Only a lost connection ends a wait."""
HASTE = "runtime: {timeout_s: 20.0, pin_cores: false}\n"


def long_config(folder: Path, runtime: str) -> Path:
    config = write_generation_config(folder, **LONG)
    config.write_text(config.read_text() + runtime)
    return config


def until_tokens(lines: Iterator[str], count: int) -> list[str]:
    """What is printed up to so many tokens."""
    said = []
    for line in lines:
        said.append(line)
        if sum(bool(TOKEN.match(one)) for one in said) == count:
            return said
    raise AssertionError("".join(said))


def party(process, name: str) -> psutil.Process:
    """The process of one party of `hybrid generate`."""
    found = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "hybrid.runtime.child" in child.cmdline() and name in child.cmdline()
    ]
    assert len(found) == 1, found
    return found[0]


def came(output: str) -> int:
    found = re.search(r"hybrid: (\d+) tokens of answer 1 came before this: ", output)
    assert found, output
    return int(found[1])


def leaves_nothing(children: list[psutil.Process]) -> None:
    wait_until(lambda: not any(child.is_running() for child in children), "the children's end")


@pytest.mark.parametrize("victim", ["server", pytest.param("client", marks=pytest.mark.slow)])
def test_a_killed_party_ends_an_answer(tmp_path, victim):
    process = hybrid(
        "generate", long_config(tmp_path, PATIENCE), "--prompt", "What is a mask?", cwd=tmp_path
    )
    with ended(process):
        said = until_tokens(lines_of(process), 2)
        children = [party(process, name) for name in ("server", "client")]
        party(process, victim).send_signal(signal.SIGKILL)
        code, output = finish(process)
        assert code == 2, output
        tokens = sum(bool(TOKEN.match(line)) for line in [*said, *output.splitlines()])
        assert came(output) == tokens >= 2
        last = output.strip().splitlines()[-1]
        assert f"the {victim} process ended without a report (exit code -9)" in last
        leaves_nothing(children)


def test_a_hung_server_ends_an_answer(tmp_path):
    config = long_config(tmp_path, HASTE)
    process = hybrid("generate", config, "--prompt", "What is a mask?", cwd=tmp_path)
    with ended(process):
        until_tokens(lines_of(process), 1)
        children = [party(process, name) for name in ("server", "client")]
        children[0].suspend()
        code, output = finish(process)
        assert code == 2, output
        assert came(output) >= 1
        leaves_nothing(children)


def test_a_user_may_interrupt_an_answer(tmp_path):
    config = long_config(tmp_path, PATIENCE)
    process = hybrid("generate", config, "--prompt", "What is a mask?", cwd=tmp_path)
    with ended(process):
        until_tokens(lines_of(process), 1)
        children = [party(process, name) for name in ("server", "client")]
        # As a terminal does: to the command and both parties.
        os.killpg(process.pid, signal.SIGINT)
        code, output = finish(process)
        assert code not in (0, 2), output
        leaves_nothing(children)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_server_outlives_its_clients(tmp_path, how):
    config = long_config(tmp_path, PATIENCE)
    served, endpoint = serving(config, "--keep")
    lines = lines_of(served)
    with ended(served):
        asking = hybrid("query", config, "--connect", endpoint, "--prompt", "Why?", cwd=tmp_path)
        with ended(asking):
            until_tokens(lines_of(asking), 1)
            os.killpg(asking.pid, how)
            said = next(line for line in lines if line.startswith(("session ended", "served")))
        # A user who interrupts between two passes takes leave.
        leave = re.fullmatch(r"served (\d+) passes\n", said) if how == signal.SIGINT else None
        few = leave is not None and 1 <= int(leave[1]) < LONG["max_new_tokens"]
        assert few or said.startswith("session ended: "), said
        endpoint = next(line for line in lines if line.startswith("listening on ")).split()[-1]
        again = ("--prompt", "Why?", "--max-new-tokens", "1")
        code, output = finish(hybrid("query", config, "--connect", endpoint, *again, cwd=tmp_path))
        assert code == 0, output
        assert next(line for line in lines if line.startswith("served ")) == "served 1 passes\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_outlives_its_server(tmp_path, how):
    config = long_config(tmp_path, HASTE if how == signal.SIGSTOP else PATIENCE)
    served, endpoint = serving(config)
    with ended(served):
        asking = hybrid("query", config, "--connect", endpoint, "--prompt", "Why?", cwd=tmp_path)
        with ended(asking):
            until_tokens(lines_of(asking), 1)
            os.killpg(served.pid, how)
            code, output = finish(asking)
            assert code == 2, output
            assert came(output) >= 1
