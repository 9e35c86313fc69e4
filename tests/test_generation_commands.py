"""`hybrid generate`, `plan`, `serve` and `query` of a decoder, between real processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import hybrid as library
from hybrid.cli.progress import GenerationDisplay
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.reports.files import write_text
from hybrid.reports.generation_text import generation_markdown, print_generation_report
from tests.generation_setup import write_generation_config
from tests.processes import KEYS, ended, finish, hybrid, lines_of, run, serving

PHASE = {"seconds", *KEYS}
TOKEN = re.compile(r"^ +\d+\.\d\d s  (.*)$", re.MULTILINE)
MARKUP = "What is [bold]a[/bold] mask?"


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def check_phases(report: dict, new_tokens: int) -> None:
    generation = report["generation"]
    assert generation["new_tokens"] == new_tokens == len(generation["tokens"]) + 1
    for one in (generation["prefill"], *generation["tokens"]):
        for phase in ("offline", "online"):
            assert set(one[phase]) == PHASE
            assert all(value >= 0 for value in one[phase].values())
        assert one["online"]["rounds"] > 0
    assert report["declared_equals_measured"]
    # Both parties' counters agree, and all that was sent belongs to a step or the set-up.
    counted = report["counted"]
    assert counted["session_at_client"] == counted["session_at_server"]
    assert counted["session_at_client"] == counted["steps_and_setup"]
    assert 0 < report["failure_probability"] < MAX_FAILURE_PROBABILITY
    whole = [generation["prefill"], *generation["tokens"]]
    for key in KEYS:
        for phase in ("offline", "online"):
            total = sum(one[phase][key] for one in whole)
            # Shares of batches are fractions, which reports round.
            off = 0.011 if key == "rounds" else 1
            assert abs(total - report[phase][key]) <= off * len(whole)


def check_plain(report: dict) -> None:
    generation = report["generation"]
    assert generation["equal_tokens"] == generation["new_tokens"]
    assert generation["text"] == generation["plain_text"]
    assert generation["logits_cosine_min"] > 0.9999


@pytest.mark.long
@pytest.mark.smoke
def test_generate_writes_what_it_prints(tmp_path):
    config = write_generation_config(tmp_path, max_new_tokens=3)
    config.write_text(config.read_text() + "texts: prompts.txt\n")
    (tmp_path / "prompts.txt").write_text(f"{MARKUP}\n")
    code, output = finish(hybrid("generate", config, "--out", "out", cwd=tmp_path))
    assert code == 0, output
    report = report_of(tmp_path / "out")
    check_phases(report, 3)
    check_plain(report)
    # Texts that look like markup are shown as they are, every token with its seconds.
    assert f"prompt: {MARKUP}" in output
    text = report["generation"]["text"]
    assert f"answer: {text}" in output
    tokens = "".join(TOKEN.findall(output.split("answer: ")[0]))
    assert tokens == text.replace("\n", "\u21b5")
    # The prompt stays with who wrote it.
    assert MARKUP not in json.dumps(report)
    assert "mask" not in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.long
def test_prompts_one_by_one_and_as_a_conversation(tmp_path):
    config = write_generation_config(tmp_path, max_new_tokens=2)
    prompts = ("--prompt", "What is a mask?", "--prompt", "And a pad?")
    options = [(), ("--conversation", "--max-new-tokens", "1")]
    reports = []
    for index, more in enumerate(options):
        out = tmp_path / f"out{index}"
        code, output = run("generate", config, *prompts, *more, "--out", out, cwd=tmp_path)
        assert code == 0, output
        assert output.count("prompt: ") == output.count("answer: ") - 2 == 2
        reports.append([report_of(out), report_of(out / "prompt2")])
        for report in reports[-1]:
            check_phases(report, 2 - index)
            check_plain(report)
            assert report["counted"]["requests_in_session"] == 2
    (first, second), (opening, turn) = (
        [report["generation"] for report in pair] for pair in reports
    )
    assert first["tokens_before"] == second["tokens_before"] == opening["tokens_before"] == 0
    # The answer's only token has not been read: the next pass reads it with the turn.
    assert turn["tokens_before"] == opening["prompt_tokens"]
    assert turn["prompt_tokens"] > second["prompt_tokens"]


def test_plan_shows_passes_and_what_they_share(tmp_path):
    config = write_generation_config(tmp_path)
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 0, output
    for said in (
        "a conversation of 64 private positions: what is prepared",
        "a batch of 32 rows",
        "read in one pass",
        "one token behind 32 private positions",
        "a token, with its shares: client sends",
        "failure probability of a conversation of 64 positions, answers of up to 4 tokens: ",
        "layer1.scores",
        "slot_correlations",
    ):
        assert said in output, said
    code, said = run("plan", config, "--json", cwd=tmp_path)
    assert code == 0
    plan = json.loads(said)
    assert plan == library.plan(config).to_dict()
    assert plan["conversation"]["positions"] == 64
    assert plan["batch"]["rows_of_a_batch"] == 32
    assert plan["prefill"]["past"] == 0
    for part in ("prefill", "token"):
        rows = [row for row in plan[part]["rows"] if row["phase"] == "online"]
        for key in KEYS:
            assert sum(row["predicted"][key] for row in rows) == plan[part]["online"][key]
    announced = plan["announced"]
    assert 0 < announced["failure_probability"] < announced["limit"] == MAX_FAILURE_PROBABILITY
    assert plan["plan_hash"] in output


def test_a_saved_schedule_is_the_same_plan(tmp_path):
    config = write_generation_config(tmp_path)
    code, output = run("plan", config, "--save", "kept/it.yaml", cwd=tmp_path)
    assert code == 0, output
    assert "a config runs it with schedule: kept/it.yaml" in output
    content = yaml.safe_load(config.read_text())
    del content["protocols"], content["mpc"]["correlations"]
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**content, "schedule": "kept/it.yaml"}))
    assert library.plan(other).to_dict() == library.plan(config).to_dict()
    # A schedule of another model leaves steps open.
    gpt2 = write_generation_config(tmp_path, "gpt2")
    code, output = run("plan", gpt2, "--save", "kept/it.yaml", cwd=tmp_path)
    assert code == 0, output
    code, output = run("plan", other, cwd=tmp_path)
    assert code == 2
    assert "schedule" in output


# -- two machines -------------------------------------------------------------------------------


def client_config(server: Path) -> Path:
    """Another folder's, without what only the server needs."""
    config = yaml.safe_load(server.read_text())
    folder = server.parent / "client"
    (folder / "model").mkdir(parents=True)
    source = Path(config["model"]["path"])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / "model" / name).write_bytes((source / name).read_bytes())
    config["model"]["path"] = "model"
    path = folder / "client.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    "embedding", ["private", pytest.param("public_table", marks=pytest.mark.slow)]
)
def test_two_clients_one_after_the_other(tmp_path, embedding):
    server = write_generation_config(tmp_path, max_new_tokens=2, model={"embedding": embedding})
    client = client_config(server)
    served, endpoint = serving(server, "--keep", "--out", "served")
    lines = lines_of(served)
    with ended(served):
        for index, prompt in enumerate(("What is a mask?", "Why two?")):
            asked = ("--prompt", prompt, "--prompt", "And?", "--conversation", "--out", "asked")
            code, output = finish(
                hybrid("query", client, "--connect", endpoint, *asked, cwd=client.parent)
            )
            assert code == 0, output
            said = next(line for line in lines if line.startswith("served "))
            assert said == "served 4 passes\n", index
            # Listening again before the next one comes.
            again = next(line for line in lines if line.startswith("listening on "))
            endpoint = again.split()[-1]
            check_sides(tmp_path / "served", client.parent / "asked", prompt)


def check_sides(served: Path, asked: Path, prompt: str) -> None:
    """The server's reports hold counts alone, the client's its answer and no accuracy."""
    for part in (".", "prompt2"):
        mine = report_of(asked / part)
        assert mine["generation"]["text"]
        assert "accuracy" not in mine and "plain_text" not in mine["generation"]
        folder = served / part
        theirs = report_of(folder)
        check_secrets(theirs, (folder / "report.md").read_text(), prompt)
        for key in ("prompt_tokens", "new_tokens", "tokens_before"):
            assert theirs["generation"][key] == mine["generation"][key]
        assert theirs["plan_hash"] == mine["plan_hash"]


def check_secrets(report: dict, page: str, prompt: str) -> None:
    """Nothing that was decrypted, nor the prompt."""
    generation = report["generation"]
    assert not {"text", "plain_text", "equal_tokens", "logits_cosine_min"} & set(generation)
    for one in (generation["prefill"], *generation["tokens"]):
        assert set(one) == {"offline", "online"}
    assert "accuracy" not in report and "time_to_first_token_seconds" not in report
    for place in (json.dumps(report), page):
        assert prompt not in place
    assert "This party does not see it." in page


# -- what comes from outside --------------------------------------------------------------------

EVIL = "\x1b[31mred\x1b[0m [bold]b[/bold] [/] \x07\r\u202e `x` <b> |"


def test_words_from_outside_steer_no_terminal(capsys):
    from rich.console import Console

    console = Console(width=170, force_terminal=True)
    display = GenerationDisplay(console)
    display.prompt(EVIL)
    display.token(EVIL, 0.25)
    display.answered(EVIL)
    shown = capsys.readouterr().out
    assert shown.count("[bold]b[/bold] [/]") == 3
    for steering in ("\x1b[31m", "\x07", "\r", "\u202e"):
        assert steering not in shown


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The report of one answer, kept for what is done with its words."""
    with library.local(
        write_generation_config(tmp_path_factory.mktemp("one"), max_new_tokens=2)
    ) as session:
        list(session.generate("What is a mask?"))
    (report,) = session.reports()
    return report


@pytest.mark.long
def test_answers_steer_neither_terminal_nor_markdown(finished, tmp_path, capsys):
    from rich.console import Console

    report = json.loads(json.dumps(finished))
    report["generation"] |= {"text": EVIL, "plain_text": EVIL}
    for one in (report["generation"]["prefill"], *report["generation"]["tokens"]):
        one["token_text"] = EVIL
    console = Console(width=170, force_terminal=True, color_system=None)
    print_generation_report(console, report, EVIL, tmp_path / "[red]")
    shown = capsys.readouterr().out
    assert "[bold]b[/bold] [/]" in shown
    for steering in ("\x1b[31m", "\x07", "\u202e"):
        assert steering not in shown
    write_text(generation_markdown(report), tmp_path / "report.md")
    page = (tmp_path / "report.md").read_text()
    for steering in ("\x1b", "\x07", "\u202e"):
        assert steering not in page
    rows = [line for line in page.splitlines() if line.startswith(("| prefill of", "| token 2"))]
    assert len(rows) == 2
    # A bar or a tag in a cell would be another cell or HTML.
    heads = [line for line in page.splitlines() if line.startswith("| pass |")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in (*rows, *heads)}
    assert len(cells) == 1
    assert not any("<b>" in re.sub(r"\\<", "", line) for line in rows)


# -- prompts that share passes ------------------------------------------------------------------

THREE = ("--prompt", MARKUP, "--prompt", "Why two?", "--prompt", "And a pad, once more?")


def check_shared(output: str, folder: Path, prompts: int) -> list[dict]:
    """Three prompts, two of them together and one alone; the console shows every answer."""
    reports = [report_of(folder / part) for part in (".", "prompt2", "prompt3")[:prompts]]
    for report in reports:
        assert report["declared_equals_measured"]
        assert f"answer: {report['generation']['text']}" in output
    assert [report["batch"]["prompts"] for report in reports] == [2, 2, 1]
    return reports


@pytest.mark.long
def test_prompts_share_passes(tmp_path):
    config = write_generation_config(tmp_path, max_new_tokens=2)
    out = tmp_path / "out"
    sets = ("--set", "model.batch=2")
    code, output = run("generate", config, *THREE, *sets, "--out", out, cwd=tmp_path)
    assert code == 0, output
    for report in check_shared(output, out, 3):
        check_phases(report, 2)
        check_plain(report)
    assert "A token after it, the pass divided by 2" in output
    assert "2 of which answer prompts." in output and "1 of which answers a prompt." in output
    assert "of 2 conversations that share passes, each of the announced size" in output
    code, output = run(
        "generate", config, *THREE, *sets, "--conversation", "--out", out, cwd=tmp_path
    )
    assert code != 0
    assert "model.batch: 2: conversations that share passes begin and end together" in output


@pytest.mark.long
@pytest.mark.slow
def test_prompts_share_passes_with_a_server_elsewhere(tmp_path):
    server = write_generation_config(tmp_path, max_new_tokens=2, model={"batch": 2})
    client = client_config(server)
    served, endpoint = serving(server, "--out", "served")
    lines = lines_of(served)
    with ended(served):
        asked = ("--connect", endpoint, *THREE, "--out", "asked")
        code, output = finish(hybrid("query", client, *asked, cwd=client.parent))
        assert code == 0, output
        said = next(line for line in lines if line.startswith("served "))
        assert said == "served 4 passes\n"
        list(lines)
    check_shared(output, client.parent / "asked", 3)
    # The server tells batches from each other, not prompts.
    for part in (".", "prompt2"):
        theirs = report_of(tmp_path / "served" / part)
        assert theirs["batch"]["prompts"] == theirs["batch"]["conversations"] == 2
        check_secrets(theirs, (tmp_path / "served" / part / "report.md").read_text(), MARKUP)
