"""What `import hybrid` offers, as a program outside the project uses it."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

import hybrid
from tests.processes import ANY_PORT, ROOT, ended, run
from tests.waiting import GUARD_S

TINY = ROOT / "experiments" / "tutorial" / "tiny.yaml"
TEXT, OTHER = "a small test of private inference", "another"
TOO_LONG = "word " * 20
NAMES = {
    "Config", "ConfigError", "FrameError", "HandshakeError", "HybridError", "LocalSession",
    "ParameterError", "PeerLostError", "Plan", "ReceiveTimeoutError", "RemoteSession",
    "TransportError", "UsageError", "__version__", "connect", "load", "local", "plan", "serve",
}  # fmt: skip


def tiny(**changes: object) -> dict[str, object]:
    return yaml.safe_load(TINY.read_text()) | changes


def dealt() -> hybrid.Config:
    protocols = ["protocols.linear=beaver", "protocols.attention=beaver"]
    others = ["protocols.multiply=dealer", "mpc.correlations=dealer"]
    return hybrid.load(TINY, set=[*protocols, *others])


# -- names ------------------------------------------------------------------------------------


def test_every_name_is_there_with_words_on_it():
    assert set(hybrid.__all__) == NAMES == set(dir(hybrid))
    for name in NAMES - {"__version__"}:
        value = getattr(hybrid, name)
        assert inspect.getdoc(value), name
        assert value is getattr(hybrid, name)
    for kind in (hybrid.Plan, hybrid.LocalSession, hybrid.RemoteSession, hybrid.Config):
        for name, member in inspect.getmembers(kind):
            assert name.startswith("_") or inspect.getdoc(member), f"{kind.__name__}.{name}"
    with pytest.raises(AttributeError, match="module 'hybrid' has no attribute 'lod'"):
        _ = hybrid.lod


def test_every_error_is_a_hybrid_error():
    from transport import errors

    for name in errors.__all__:
        assert getattr(hybrid, name) is getattr(errors, name)
        assert issubclass(getattr(hybrid, name), hybrid.HybridError)


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hybrid.__version__ == project["version"]


def python(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)], cwd=cwd, text=True,
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=GUARD_S,
        check=False, **options,
    )  # fmt: skip


LIGHT = """
import os, sys, hybrid
assert hybrid.__version__ and "load" in dir(hybrid)
heavy = {"numpy", "torch", "numba", "zmq", "pydantic", "yaml", "rich", "transport"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "OMP_NUM_THREADS" not in os.environ
from hybrid import *
assert load and "numpy" in sys.modules and os.environ["OMP_NUM_THREADS"] == "1"
"""


@pytest.mark.long
def test_importing_the_package_imports_nothing_else(tmp_path):
    done = python("-c", LIGHT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


USER = """
import hybrid
import numpy as np

config: hybrid.Config = hybrid.load("c.yaml", set=["model.tokens=4"], link="lan")
plan: hybrid.Plan = hybrid.plan(config)
text: str = plan.table()
with hybrid.local(config) as session:
    reveal_type(session)
    reveal_type(session.embed(["a"]))
hybrid.load(3)
hybrid.nothing
"""


@pytest.mark.slow
def test_users_see_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    done = python(
        "-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache", "user.py", cwd=tmp_path
    )
    assert 'Revealed type is "hybrid.api.LocalSession"' in done.stdout
    assert re.search(r'Revealed type is "numpy.ndarray\[.*float64', done.stdout), done.stdout
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert [line.rpartition("[")[2] for line in errors] == ["arg-type]", "attr-defined]"]


# -- load -------------------------------------------------------------------------------------


def test_a_config_comes_from_a_file_text_or_dict(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tiny(texts="t.txt")))
    text = (tmp_path / "c.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    sources = [tmp_path / "c.yaml", "c.yaml", str(tmp_path / "c.yaml"), text, tiny(texts="t.txt")]
    configs = [hybrid.load(source) for source in sources]
    # Where they start is where they were read, wherever the program goes next.
    monkeypatch.chdir("/")
    assert all(config.run == configs[0].run for config in configs)
    assert {config.resolve("t.txt") for config in configs} == {tmp_path / "t.txt"}
    assert repr(configs[-1]) == "<Config tiny: <dict>>"


def test_a_config_takes_changes_as_the_command_line_does():
    config = hybrid.load(tiny(), set=["ckks.exact=true", "name=other"], tokens=4, link="wan2")
    run_ = config.run
    assert (run_.ckks.exact, run_.name, run_.model.tokens, run_.link) == (True, "other", 4, "wan2")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("nowhere.yaml", r"nowhere\.yaml: cannot be read .*; name an existing YAML file"),
        ("name: x\nmodel: [", r"<text>:2: not valid YAML"),
        (tiny(modle={}), r"<dict>: unknown key 'modle'; did you mean 'model'\?"),
        ({1: 2}, r"<dict>: key 1 is not a string; give names of keys"),
        (tiny(link="fast"), r"<dict>: link: input should be .* got 'fast'"),
    ],
)
def test_a_wrong_config_is_one_sentence(source, error):
    with pytest.raises(hybrid.ConfigError, match=error) as caught:
        hybrid.load(source)
    assert "\n" not in str(caught.value)


def test_what_is_no_config_is_said():
    with pytest.raises(hybrid.UsageError, match="load: int; give a path, YAML text or a dict"):
        hybrid.load(3)  # type: ignore[arg-type]


# -- plan -------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_plan_is_what_the_command_prints(tmp_path):
    plan = hybrid.plan(hybrid.load(TINY, set=["ckks.linear_phase=online"]))
    assert re.fullmatch(r"<Plan: \d+ steps, [\d.]+ MB a request>", repr(plan))
    code, output = run("plan", TINY, "--set", "ckks.linear_phase=online", cwd=tmp_path)
    assert code == 0
    assert plan.table() == output
    code, output = run("plan", TINY, "--set", "ckks.linear_phase=online", "--json", cwd=tmp_path)
    assert json.loads(output) == json.loads(json.dumps(plan.to_dict()))
    assert not plan.needs_dealer
    assert hybrid.plan(dealt()).needs_dealer
    plan.save(tmp_path / "new" / "s.yaml")
    left_out = ("protocols=null", "ckks.linear_phase=null", "mpc.correlations=null")
    scheduled = hybrid.load(TINY, set=[*left_out, f"schedule={tmp_path / 'new' / 's.yaml'}"])
    assert len(hybrid.plan(scheduled).to_dict()["rows"]) == len(plan.to_dict()["rows"])


def test_the_fastest_plan_needs_prices():
    left_out = ("protocols=null", "ckks.linear_phase=null", "mpc.correlations=null")
    config = hybrid.load(TINY, set=[*left_out, "scheduler.policy=fastest"])
    with pytest.raises(hybrid.ConfigError, match="run `hybrid calibrate` first"):
        hybrid.plan(config)
    with pytest.raises(hybrid.ConfigError, match="run `hybrid calibrate` first"):
        hybrid.local(config)


# -- sessions on this machine -----------------------------------------------------------------


@pytest.mark.long
def test_a_session_answers_again_and_again(tmp_path):
    config = hybrid.load(tiny())
    session = hybrid.local(config)
    assert repr(session) == "<LocalSession tiny: new, 0 texts>"
    with pytest.raises(hybrid.UsageError, match="not open; use it in a with statement"):
        session.embed([TEXT])
    with session as same:
        assert same is session
        first = session.embed([TEXT, OTHER])
        assert (first.shape, first.dtype) == ((2, 24), np.float64)
        for wrong, error in (
            ([TOO_LONG], "has 22 tokens, model.tokens is 8"),
            ([" "], "text: empty"),
            ([], "no text"),
            (TEXT, "give a list of texts"),
            ([TEXT, None], "text 2 is of type NoneType"),
        ):
            with pytest.raises(hybrid.HybridError, match=error):
                session.embed(wrong)
        assert session.embed([TOO_LONG], truncate=True).shape == (1, 24)
        assert np.abs(session.embed([OTHER]) - first[1]).max() < 0.05
        with pytest.raises(hybrid.UsageError, match="reports: none"):
            session.reports()
    assert repr(session) == "<LocalSession tiny: closed, 4 texts>"
    reports = session.reports()
    assert len(reports) == 4
    assert min(r["accuracy"]["cosine"] for r in reports) > 0.999
    assert np.array_equal(reports[0]["output"], first[0])
    assert repr(session.plan) == repr(hybrid.plan(config))
    # The same as the command's, but for what time and chance change.
    code, output = run("run", TINY, "--text", TEXT, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    ours = json.loads(json.dumps(reports[0]))
    assert list(written) == list(ours)
    for key in ("config", "trust_model", "failure_probability", "correlations", "model"):
        assert written[key] == ours[key]
    predicted = [[step["predicted"] for step in report["steps"]] for report in (written, ours)]
    assert predicted[0] == predicted[1]
    for action in (lambda: session.embed([TEXT]), session.__enter__):
        with pytest.raises(hybrid.UsageError):
            action()


@pytest.mark.parametrize("texts", [None, 3, {"a": 1}, b"a", [1]])
def test_what_is_no_list_of_texts_is_said(texts):
    with pytest.raises(hybrid.UsageError, match="embed: "):
        hybrid.local(TINY).embed(texts)


@pytest.mark.long
@pytest.mark.usefixtures("fresh_parties")
def test_a_party_that_dies_is_one_sentence_and_leaves_nothing_behind():
    before = set(psutil.Process().children(recursive=True))
    with hybrid.local(TINY) as session:
        (server,) = (p for p in psutil.Process().children() if "server" in p.cmdline())
        server.kill()
        with pytest.raises(hybrid.HybridError, match="server|client") as caught:
            session.embed([TEXT])
        assert "\n" not in str(caught.value)
        with pytest.raises(hybrid.UsageError, match="has failed .* before; open a new one"):
            session.embed([TEXT])
    assert set(psutil.Process().children(recursive=True)) <= before
    with pytest.raises(hybrid.UsageError, match="reports: none"):
        session.reports()


@pytest.mark.long
@pytest.mark.usefixtures("fresh_parties")
def test_a_callers_own_error_ends_the_session():
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ZeroDivisionError), hybrid.local(TINY):
        _ = 1 / 0
    assert set(psutil.Process().children(recursive=True)) <= before


PROGRAM = f"""\
import hybrid
session = hybrid.local({str(TINY)!r})
_ = session.__enter__()
print(session.embed([{TEXT!r}]).shape)
session.__exit__(None, None, None)
print(len(session.reports()), "report")
"""


@pytest.mark.long
@pytest.mark.parametrize("way", ["script without a guard", "-c", "interactive"])
def test_a_session_works_from_anywhere(tmp_path, way):
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = {"-c": ["-c", PROGRAM], "interactive": ["-i", "-q"]}.get(way, ["program.py"])
    done = python(*arguments, cwd=tmp_path, input=PROGRAM if way == "interactive" else "")
    assert done.stdout == "(1, 24)\n1 report\n", done.stderr
    assert "Error" not in done.stderr


# -- sessions between two machines ------------------------------------------------------------

SERVER = f"""
import hybrid
reports = hybrid.serve({str(TINY)!r}, {ANY_PORT!r}, say=lambda line: print(line, flush=True))
print(len(reports), "reports", "output" in reports[0], "accuracy" in reports[0])
"""


def serving(cwd: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line.removeprefix("listening on ").strip()


@pytest.mark.long
def test_a_server_and_a_client(tmp_path):
    process, endpoint = serving(tmp_path)
    with ended(process):
        session = hybrid.connect(TINY, endpoint)
        with pytest.raises(hybrid.UsageError, match="the plan comes from the server"):
            _ = session.plan
        with session:
            first = session.embed([TEXT])
            with pytest.raises(hybrid.ConfigError, match="model.tokens is 8"):
                session.embed([TOO_LONG])
            assert session.embed([OTHER]).shape == first.shape == (1, 24)
            assert repr(session) == f"<RemoteSession tiny at {endpoint}: open>"
        assert process.stdout is not None
        rest = process.stdout.read()
    assert rest == "served 2 requests\n2 reports False False\n"
    reports = session.reports()
    assert np.array_equal(reports[0]["output"], first[0])
    assert session.plan.to_dict()["plan_hash"] == hybrid.plan(TINY).to_dict()["plan_hash"]


@pytest.mark.long
def test_a_clients_own_error_does_not_hurt_the_server(tmp_path):
    process, endpoint = serving(tmp_path)
    with ended(process):
        with pytest.raises(ZeroDivisionError), hybrid.connect(TINY, endpoint) as session:
            session.embed([TEXT])
            _ = 1 / 0
        assert process.stdout is not None
        assert process.stdout.read() == "served 1 requests\n1 reports False False\n"
    with pytest.raises(hybrid.UsageError, match="reports: none"):
        session.reports()


def test_neither_side_takes_what_needs_a_dealer():
    for action in (hybrid.serve, hybrid.connect):
        with pytest.raises(hybrid.ConfigError, match="a third process"):
            action(dealt(), ANY_PORT)
