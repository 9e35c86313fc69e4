"""Ranges that do not hold: refused by edge, scaled where nothing reads them, told afterwards."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch

from hybrid.config.loading import load_config
from hybrid.models.loading import load_model, public_model
from hybrid.models.range_check import few_samples
from hybrid.models.ranges import (
    Bound,
    default_lines,
    default_sentences,
    observed_ranges,
    output_shift,
    ranges_from_public,
    shifted,
)
from hybrid.planning.planner import make_plan
from hybrid.reports.range_report import is_wrong, range_lines, range_rows
from hybrid.reports.run_report import compare
from tests.changed_model import (
    FIRST,
    LAST,
    LOUD,
    QUIET,
    cosine,
    gained,
    ids_of,
    mean_vector,
    published,
    write_narrow,
)
from tests.changed_model import write_changed as write
from tests.tiny_model import TEXT, write_tiny_config
from transport.errors import ConfigError

UP = "encoder.layer.0.intermediate.dense"
VALUE = "encoder.layer.0.attention.self.value"
OUTPUT = "encoder.layer.0.attention.output.dense"


def scaled(name, factor):
    def change(tensors):
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] *= np.float32(factor)

    return change


def rescaled_values(factor):
    """The same function: values times a factor, the map that reads them divided by it."""

    def change(tensors):
        scaled(VALUE, factor)(tensors)
        tensors[f"{OUTPUT}.weight"] /= np.float32(factor)

    return change


def planned(path):
    config = load_config(path)
    return make_plan(config, load_model(config).public, None)


# -- bounds that nothing holds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "edge", "remedy"),
    [
        (gained(FIRST, 1e8), "layer0.intermediate", "lower ranges.margin"),
        (gained(FIRST, 2.0**-16), "layer0.attention_norm.residual", "weights before it up"),
        (scaled(UP, 1e9), "layer0.intermediate", "lower ranges.margin"),
        (rescaled_values(2.0**-18), "layer0.value", "weights before it up"),
        (rescaled_values(2.0**24), "layer0.value", "weights before it down"),
    ],
)
def test_what_fixed_point_does_not_hold_is_refused_by_edge(change, edge, remedy, tmp_path):
    with pytest.raises(ConfigError, match=f"edge '{edge}' .*{remedy}"):
        planned(write(tmp_path, change))


@pytest.mark.parametrize("factor", [1 / 256, 256.0])
def test_what_fixed_point_holds_is_planned(factor, tmp_path):
    assert planned(write(tmp_path, rescaled_values(factor))).steps


def test_zeros_are_no_magnitudes(tmp_path):
    """Exact under any bound."""
    assert planned(write(tmp_path, scaled(VALUE, 0.0))).steps


def constant_rows(tensors):
    """Sums before the first LayerNorm that hardly vary, though they are not small."""
    scaled(OUTPUT, 0.0)(tensors)
    norm = "embeddings.LayerNorm"
    tensors[f"{norm}.weight"] *= np.float32(2.0**-11)
    tensors[f"{norm}.bias"] = np.ones_like(tensors[f"{norm}.bias"])


def test_a_variance_below_the_normalisation_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"edge 'layer0.attention_norm.variance' falls to"):
        planned(write(tmp_path, constant_rows))


def test_a_large_epsilon_holds_a_small_variance(tmp_path):
    path = write(tmp_path, constant_rows)
    settings = tmp_path / "model" / "config.json"
    settings.write_text(settings.read_text().replace("1e-12", "1e-05"))
    # Products in slots are too rough for rows that differ so much.
    path.write_text(path.read_text().replace("multiply: cheapest", "multiply: ot"))
    assert planned(path).steps


def test_values_that_are_not_finite_name_their_edge():
    def run(_ids, see):
        see("here", torch.tensor([1.0, torch.inf]))

    with pytest.raises(ConfigError, match="edge 'here' that are not finite"):
        observed_ranges(run, [np.array([1])], 2.0)


def test_a_client_refuses_a_servers_bounds_that_nothing_holds(tmp_path):
    config = load_config(write_tiny_config(tmp_path))
    data = load_model(config).public.to_public()
    data["ranges"]["layer0.scores"] = [2.0**-20, 1.0, 2.0**60]
    found = public_model(config, data)
    with pytest.raises(ConfigError, match=r"edge 'layer0.scores' needs a bound of"):
        _ = found.graph
    data["ranges"]["layer0.scores"] = [2.0**-20, 1.0, 2.0**200]
    with pytest.raises(ConfigError, match="handshake: bound of edge"):
        ranges_from_public(data["ranges"])


# -- what is opened -----------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-40, -12, -1, 0, 3, 5, 6, 27, 60])
def test_an_opened_edge_is_scaled_to_where_it_is_precise(power):
    bound = Bound(2.0**-20, 2.0**power, 2.0 ** (power + 4))
    moved = shifted(bound, output_shift(bound))
    assert 1 <= moved.rms <= 32 and moved.max_abs / moved.rms == 16
    if 0 <= power <= 5:
        assert moved == bound


@pytest.mark.parametrize("factor", [2.0**-12, 2.0**-30, 1.0, 1e8])
def test_the_scaled_maps_give_transformers_vector(factor, tmp_path):
    """The map of the opened node in integers of 16 bits, the sum cut to 6: what the parties do."""
    config = load_config(write(tmp_path, gained(LAST, factor)))
    model, ids = load_model(config), ids_of(TEXT)
    graph = model.public.graph
    own = graph.scaled_maps(model.maps())["pool"]
    reference = published(tmp_path / "model")
    inner = []
    norm = reference.encoder.layer[0].output.LayerNorm
    norm.register_forward_hook(lambda _module, inputs, _output: inner.append(inputs[0][0]))
    expected = mean_vector(reference, ids)
    rows = torch.nn.functional.layer_norm(inner[0], inner[0].shape[-1:], eps=1e-12).numpy()
    gain, bias = (np.round(x * 2.0**16) / 2.0**16 for x in (own.scale, own.shift))
    words = np.round((rows * gain + bias).sum(0) * 2.0**6).astype(np.int64).view(np.uint64)
    opened = model.public.head.opened(words, np.array([len(ids)]))[0] * graph.opened_scale()
    assert cosine(opened, expected) > 0.9999
    assert np.linalg.norm(opened) == pytest.approx(np.linalg.norm(expected), rel=1e-2)


def test_both_parties_must_scale_alike(tmp_path):
    """The scale is part of what they compare before anything secret moves."""
    row = planned(write(tmp_path, gained(LAST, 2.0**-12))).rows()[-1]
    assert row["name"] == "pool" and row["parameters"]["output_shift"] >= 8


def test_no_angle_of_zeros():
    zero, one = np.zeros(3), np.ones(3)
    assert compare(zero, one).cosine == 0.0 and compare(zero, zero).cosine == 1.0
    assert compare(one, one).cosine == pytest.approx(1.0)


# -- what a text reaches ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A model calibrated on texts without the word that matters."""
    folder = tmp_path_factory.mktemp("narrow")
    return load_model(load_config(write_narrow(folder))), folder


def reached(folder, ids):
    """Largest magnitudes inside transformers' own model."""
    model, found = published(folder / "model"), {}
    layer = model.encoder.layer[0]

    def keep(edge, at_input):
        def hook(_module, inputs, output):
            found[edge] = float((inputs[0] if at_input else output).abs().max())

        return hook

    layer.intermediate.dense.register_forward_hook(keep("layer0.intermediate", False))
    layer.output.LayerNorm.register_forward_hook(keep("layer0.output_norm.sum", True))
    layer.output.dense.register_forward_hook(keep("layer0.gelu", True))
    mask = (np.arange(8) < len(ids)).astype(np.int64)
    padded = np.zeros(8, np.int64)
    padded[: len(ids)] = ids
    with torch.no_grad():
        model(torch.from_numpy(padded)[None], attention_mask=torch.from_numpy(mask)[None])
    return found


def test_every_exceeded_edge_is_named_with_its_factor(narrow):
    model, folder = narrow
    answer, check = model.checked(ids_of(LOUD))
    assert np.array_equal(answer, model.plain(ids_of(LOUD)))
    hard = {one.edge: one for one in check.exceeded if one.of == "max_abs"}
    expected = reached(folder, ids_of(LOUD))
    assert "layer0.intermediate" in hard
    for edge, largest in expected.items():
        bound = model.public.ranges[edge].max_abs
        assert (edge in hard) == (largest > bound)
        if edge in hard:
            assert hard[edge].seen == pytest.approx(largest, rel=1e-4)
            assert hard[edge].times == pytest.approx(largest / bound, rel=1e-4)
    times = [one.times for one in check.exceeded]
    assert times == sorted(times, reverse=True) and times[-1] > 1


def test_what_was_calibrated_on_leaves_its_margin(narrow):
    model, _ = narrow
    _, check = model.checked(ids_of(QUIET))
    assert not check.exceeded
    # The margin is 4, and bounds are rounded up.
    assert 1 / 8 < check.nearest.times <= 1 / 4


def test_edges_that_no_step_reads_are_left_out(narrow):
    model, _ = narrow
    used = model.public.used_ranges
    assert "embedding.variance" in model.public.ranges and "embedding.variance" not in used
    assert {"layer0.scores", "layer0.output_norm.variance", "pool"} <= set(used)


def test_a_report_says_what_was_exceeded_and_what_was_left(narrow):
    model, _ = narrow
    checks = [model.checked(ids_of(text))[1] for text in (QUIET, LOUD)]
    rows = range_rows(checks, model.caution)
    first = rows["exceeded"][0]
    assert set(first) == {"text", "edge", "of", "seen", "bound", "times"} and first["text"] == 2
    assert is_wrong(rows) and rows["headroom"] is None
    alarms, said = range_lines({"ranges": rows})
    assert len(alarms) == 1 and "THE RESULT MAY BE WRONG. text 2: layer0." in alarms[0]
    assert any("1 samples with 6 different tokens" in line for line in said)
    quiet = range_rows(checks[:1], "")
    assert not is_wrong(quiet) and 4 <= quiet["headroom"]["times"] < 8
    assert range_lines({"ranges": quiet}) == (
        [],
        [f"Ranges held: every bound leaves room for at least {quiet['headroom']['times']:.2f} "
         f"times what was reached (least on {quiet['headroom']['edge']}, "
         f"{quiet['headroom']['of']} {quiet['headroom']['seen']:.4g} of "
         f"{quiet['headroom']['bound']:g})."],
    )  # fmt: skip
    assert range_lines({}) == ([], [])


def test_a_variance_below_its_bound_is_exceeded(narrow):
    from dataclasses import replace

    model, _ = narrow
    edge = "layer0.output_norm.variance"
    high = {**model.public.ranges, edge: Bound(2.0**6, 2.0**10, 2.0**10)}
    other = replace(model, public=replace(model.public, ranges=high))
    _, check = other.checked(ids_of(QUIET))
    found = {one.edge: one for one in check.exceeded if one.of == "low"}
    assert set(found) == {edge}
    assert found[edge].times == pytest.approx(64 / found[edge].seen)


# -- samples ------------------------------------------------------------------------------------


def scripts(lines):
    names = [unicodedata.name(c, "").split() for line in lines for c in line if not c.isspace()]
    return {name[0] for name in names if name}


def test_the_packages_sentences_are_of_many_kinds():
    lines = default_sentences()
    kinds = {"CJK", "HIRAGANA", "HANGUL", "CYRILLIC", "ARABIC", "HEBREW", "DEVANAGARI", "GREEK"}
    assert kinds <= scripts(lines)
    text = "\n".join(lines)
    assert any(ord(c) > 0x1F300 for c in text) and "{{ }}" in text and "%%" in text
    assert any(len(line.split()) == 1 for line in lines)
    assert any(len(line.split()) > 400 for line in lines)
    assert any(line.isupper() and len(line.split()) > 4 for line in lines)
    assert any(sum(c.isdigit() for c in line) > 40 for line in lines)
    assert {"CYRILLIC", "ARABIC", "DEVANAGARI", "CJK"} <= scripts(default_lines("prompts.txt"))


def test_few_samples_are_said():
    many = [np.arange(i, i + 8) for i in range(0, 160, 8)]
    assert few_samples(many) == ""
    assert "15 samples with 120 different tokens" in few_samples(many[:15])
    assert "20 samples with 8 different tokens" in few_samples(many[:1] * 20)


def test_a_plan_says_that_samples_are_few(tmp_path):
    import hybrid

    path = write_tiny_config(tmp_path)
    found = hybrid.plan(path)
    assert "ranges were found on 4 samples with 8 different tokens" in found.table()
    assert found.to_dict()["caution"].startswith("ranges.sentences: ")
    path.write_text(path.read_text().replace("sentences: samples.txt, ", ""))
    assert hybrid.plan(path).to_dict()["caution"] == ""
