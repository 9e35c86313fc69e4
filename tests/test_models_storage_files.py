"""Files of models that are damaged, dangerous or out of reach, and odd settings, are refused."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from tests.stored_models import (
    LFS,
    QUERY,
    made,
    ours,
    refused,
    save_bin,
    save_bin_shards,
    save_old_bin,
    save_safetensors,
    save_shards,
    write,
)


@pytest.fixture(scope="module")
def model():
    return made()


# -- damaged and dangerous files --------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "name", "message"),
    [
        (save_safetensors, "model.safetensors", "not a safetensors file, or not all of it"),
        (save_bin, "pytorch_model.bin", "not a PyTorch file, or not all of it"),
        (save_old_bin, "pytorch_model.bin", "not a PyTorch file, or not all of it"),
        (save_shards, "model-00002-of-0000*.safetensors", "not a safetensors file, or not all"),
        (save_bin_shards, "pytorch_model-00002-of-00003.bin", "not a PyTorch file, or not all"),
    ],
)
def test_files_that_are_not_whole_are_refused(save, name, message, model, tmp_path):
    write(model, tmp_path, save=save)
    path = next(tmp_path.glob(name))
    whole = path.read_bytes()
    for count in (1, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:count])
        refused(tmp_path, f"{path.name}: {message}.*fetch it again")
    for content, said in (
        (b"", "empty, not a whole file; fetch it again"),
        (LFS, "a Git LFS pointer to the file; run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "a web page in the file's place"),
    ):
        path.write_bytes(content)
        refused(tmp_path, f"{path.name}: {said}")
    path.unlink()
    if "-0" in name:
        refused(tmp_path, f"{path.name}: missing; .*index.json names it: fetch it")
    path.mkdir()
    refused(tmp_path, f"{path.name}: is no file but a folder or a device")


def test_shards_of_pytorch_files_are_those_of_the_index(model, tmp_path):
    write(model, tmp_path, save=save_bin_shards)
    index = tmp_path / "pytorch_model.bin.index.json"
    table = json.loads(index.read_text())["weight_map"]
    for change, message in (
        ({"x": table[QUERY]}, "tensor 'x' is only in pytorch_model.bin.index.json"),
        ({QUERY: "../x.bin"}, "'../x.bin' is no file of this folder"),
        ({QUERY: 3}, "3 is no file of this folder"),
    ):
        index.write_text(json.dumps({"weight_map": {**table, **change}}))
        refused(tmp_path, message)


class Intruder:
    """What a pickle may ask for."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("save", ["zip", "old", "plain"])
def test_no_code_of_a_file_is_run(save, model, tmp_path):
    trace = tmp_path / "trace"

    def intrude(tensors, folder):
        content = {**tensors, "x": Intruder(str(trace))}
        if save == "plain":
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content["x"], protocol=2))
        else:
            zipped = save == "zip"
            path = folder / "pytorch_model.bin"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)

    write(model, tmp_path, save=intrude)
    message = r"wants to run code \(posix.mkdir\), which is not done; load it where you trust it"
    refused(tmp_path, message)
    assert not trace.exists()


def test_a_program_in_place_of_weights_is_not_run(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        write(model, tmp_path, save=lambda _, f: torch.jit.save(program, f / "pytorch_model.bin"))
    refused(tmp_path, "pytorch_model.bin: wants to run code .TorchScript., which is not done")


@pytest.mark.parametrize("zipped", [True, False])
def test_newer_pickles_are_refused_as_such(zipped, model, tmp_path):
    def save(tensors, folder):
        path = folder / "pytorch_model.bin"
        form = {"pickle_protocol": 4, "_use_new_zipfile_serialization": zipped}
        torch.save(tensors, path, **form)

    write(model, tmp_path, save=save)
    refused(tmp_path, "pickled in a newer form than PyTorch reads without running code; load it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.nn.Linear(2, 2), r"wants to run code \(torch.nn.modules.linear.Linear\)"),
        ({"state_dict": {"x": torch.zeros(2)}}, "'state_dict' is no tensor but a dict, so this is"),
        ({"epoch": 3}, "'epoch' is no tensor but a int"),
        ({3: torch.zeros(2)}, "3 is no tensor but a Tensor"),
        ([torch.zeros(2)], "a list, not a table of tensors; write it with `save_pretrained`"),
    ],
)
def test_pytorch_files_of_another_form_are_refused(content, message, model, tmp_path):
    write(model, tmp_path, save=lambda _, folder: torch.save(content, folder / "pytorch_model.bin"))
    refused(tmp_path, message)


# -- files that cannot be read ----------------------------------------------------------------


def test_weights_behind_links_are_read_unless_a_link_is_broken(model, tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    write(model, blobs)
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (blobs / name).rename(blobs / f"hash-of-{name}")
        (folder / name).symlink_to(Path("../../blobs") / f"hash-of-{name}")
    assert ours(folder).shape == (12,)
    for name in ("model.safetensors", "config.json"):
        (blobs / f"hash-of-{name}").unlink()
        refused(folder, f"{name}: a link to ../../blobs/hash-of-{name}, which is not there; copy")


@pytest.fixture
def nobody(model):
    """A folder of a model, and a user who is not the one that may read everything."""
    # Not below pytest's own folder, which none but its user may enter.
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(model, Path(temporary))
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        yield folder
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


def as_owner(action):
    """With the rights of whoever started the tests."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    action()
    os.seteuid(user)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_that_may_not_be_read_are_refused_as_such(name, nobody):
    assert ours(nobody).shape == (12,)
    as_owner(lambda: (nobody / name).chmod(0))
    refused(nobody, f"{name}: may not be read by this user; give it the permission .`chmod")
    as_owner(lambda: (nobody / name).chmod(0o644))
    as_owner(lambda: nobody.chmod(0o300))
    refused(nobody, "may not be listed by this user")


# -- config.json ------------------------------------------------------------------------------


def test_a_mark_of_byte_order_is_passed_over(model, tmp_path):
    write(model, tmp_path, torch_dtype="float16")
    path = tmp_path / "config.json"
    wanted = ours(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert (ours(tmp_path) == wanted).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"hidden_size": 12', '"hidden_size": 24, "hidden_size": 12', "'hidden_size' stands twice"),
        ('"hidden_size": 12', '"x": {"a": 1, "a": 2}, "hidden_size": 12', "'a' stands twice; keep"),
        ('"hidden_size": 12', '"hidden_size": NaN', "NaN is no number of JSON; write one, or null"),
        ('"hidden_size": 12', '"x": -Infinity, "hidden_size": 12', "-Infinity is no number"),
        ('"hidden_size": 12', '"hidden_size": 1' + "0" * 5000, "not valid JSON .Exceeds the limit"),
        ("{", "", "not valid JSON .Extra data"),
        ("{", "[" * 100000, "not valid JSON .maximum recursion"),
        ("{", "\udcff", "not UTF-8 text"),
    ],
)
def test_odd_json_is_refused(old, new, message, model, tmp_path):
    write(model, tmp_path)
    path = tmp_path / "config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1), errors="surrogateescape")
    refused(tmp_path, f"config.json: {message}")


def test_a_pointer_in_place_of_config_json_is_refused(model, tmp_path):
    write(model, tmp_path)
    (tmp_path / "config.json").write_bytes(LFS)
    refused(tmp_path, "config.json: a Git LFS pointer to the file; run `git lfs pull`")


def test_a_file_in_place_of_a_folder_is_refused(model, tmp_path):
    write(model, tmp_path)
    refused(tmp_path / "model.safetensors", "is a file; name the folder that it lies in")
    refused(tmp_path / "nothing", "missing; name a folder in Hugging Face layout")
