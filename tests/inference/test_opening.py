"""A network from the file that training wrote, and files that are none."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from torchreid_dfrst.inference import open_network
from torchreid_dfrst.models import build
from torchreid_dfrst.models.weights import digest, read_safely
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import checkpoint

ABOUT = {"model": {"name": "baseline_resnet18"}, "num_classes": 3, "height": 32, "width": 64}


@pytest.fixture(scope="module")
def network():
    return build("baseline_resnet18", 3, pretrained=False).eval()


@pytest.fixture(params=["weights.safetensors", "step.pt"])
def path(request, network, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".pt":
        return checkpoint.save(path, {"state_dict": network.state_dict(), "describe": ABOUT})
    return checkpoint.export(path, network, ABOUT)


def test_the_network_comes_back_from_one_reading_of_its_file(path, network, monkeypatch):
    digest, read = hashlib.sha256(path.read_bytes()).hexdigest(), Path.read_bytes

    def read_and_delete(self):
        content = read(self)
        self.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_delete)
    model, about = open_network(path)
    assert not path.exists()
    about.pop("tensors_sha256", None)
    assert about == {**ABOUT, "weights": str(path), "weights_sha256": digest}
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), network(images))


def change(path, function):
    save_file({name: function(value) for name, value in load_file(path).items()}, path)


def retyped(path):
    change(path, lambda value: value.half() if value.dtype == torch.float32 else value)


def save_other(path):
    change(path, lambda value: value + 1)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def spoil_json(content):
    return lambda path: path.with_suffix(".json").write_text(content)


def normalised(mean, deviation):
    return spoil_json(json.dumps({**ABOUT, "config": {"data": {"norm_mean": mean, "norm_std": deviation}}}))


MISTAKES = {
    "nowhere": (Path.unlink, FileNotFoundError, r"no weights at .*weights\.safetensors"),
    "no words": (lambda path: path.with_suffix(".json").unlink(), FileNotFoundError, r"\.json is missing: .*together"),
    "no JSON": (
        spoil_json("{"),
        ValueError,
        r"\.json is no whole description of weights: .* take it from the training",
    ),
    "no object": (spoil_json("[1, 2]"), ValueError, r"\.json is no description of weights: it holds list where names"),
    "nested": (spoil_json("[" * 100_000), ValueError, r"\.json is no description of weights \(.*recursion"),
    "words": (
        spoil_json(json.dumps({**ABOUT, "num_classes": "3"})),
        ValueError,
        r"num_classes is '3', expected a whole",
    ),
    "huge": (spoil_json(json.dumps({**ABOUT, "height": 10**9})), ValueError, "height is 1000000000: "),
    "no model": (spoil_json(json.dumps({**ABOUT, "model": ["a"]})), ValueError, r"model is \['a'\], expected names"),
    "more identities": (
        spoil_json(json.dumps({**ABOUT, "num_classes": 10**9})),
        ValueError,
        "says 1000000000 identities",
    ),
    "odd option": (spoil_json(json.dumps({**ABOUT, "model": {"nam": 1}})), KeyError, "unknown key 'nam' in section"),
    "odd data": (spoil_json(json.dumps({**ABOUT, "config": {"data": 5}})), ValueError, "config.data is 5, expected"),
    "little said": (spoil_json(json.dumps({"model": {}, "height": 1})), ValueError, "its num_classes, width: only"),
    "other network": (spoil_json(json.dumps({**ABOUT, "num_classes": 4})), ValueError, "another architecture"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:999]), ValueError, "not a whole safetensors file: copy"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ValueError, "is a folder, where a file is expected"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), ValueError, r"is a pipe \(FIFO\), where a file"),
    "another type": (retyped, ValueError, r"of another type than the .*float16 for float32.*save it .* in float32"),
    "a deviation of 0": (
        normalised([0.5] * 3, [0, 1, 1]),
        ValueError,
        r"weights\.json: config\.data\.norm_std is \[0, 1, 1\]: numbers above 0",
    ),
    "a mean of text": (normalised("abc", [1] * 3), ValueError, r"config\.data\.norm_mean is 'abc', expected a list"),
    "no mean": (normalised([float("nan")] * 3, [1] * 3), ValueError, r"norm_mean is \[nan.*: one number for each"),
    "flipped bits": (flipped, ValueError, "does not hold the weights that weights.json was written for"),
    "another network's": (lambda path: save_other(path), ValueError, "does not hold the weights that weights.json"),
    "another stride": (
        spoil_json(json.dumps({**ABOUT, "model": {**ABOUT["model"], "last_stride": 1}})),
        ValueError,
        r"weights\.json is not as it was written with weights\.safetensors",
    ),
    "a licence of one's own": (
        spoil_json(json.dumps({**ABOUT, "backbone": ["MIT"]})),
        ValueError,
        r"backbone is \['MIT'\], expected",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_with_exported_weights_is_said(mistake, network, tmp_path):
    spoil, error, message = MISTAKES[mistake]
    path = checkpoint.export(tmp_path / "weights.safetensors", network, ABOUT)
    spoil(path)
    with pytest.raises(error, match=message):
        open_network(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"conv1.weight": torch.zeros(1)}, [1, 2]], ids=repr)
def test_a_file_of_another_program_is_no_network(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt does not say its model, num_classes, height, width: only files"):
        open_network(tmp_path / "other.pt")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a photograph", b"PK\x03\x04 torn", b"hello"], ids=repr)
def test_a_file_that_is_none_of_weights_shows_nothing_of_the_library(content, tmp_path):
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pt is torn or not a checkpoint: it is no whole file of torch\.save$"):
        open_network(tmp_path / "other.pt")


@pytest.mark.parametrize("lacks", ["tensors_sha256", "description_sha256"])
def test_an_export_without_a_hash_loads_with_a_warning(lacks, network, tmp_path, caplog):
    path = checkpoint.export(tmp_path / "weights.safetensors", network, ABOUT)
    save_file(load_file(path), path)
    if lacks == "tensors_sha256":
        path.with_suffix(".json").write_text(json.dumps(ABOUT))
    open_network(path)
    assert f"lacks {lacks}, as files of earlier versions" in caplog.text


def test_an_odd_header_is_read(network, tmp_path):
    path = checkpoint.export(tmp_path / "weights.safetensors", network, ABOUT)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({**json.loads(content[8 : 8 + size]), "__metadata__": None}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    open_network(path)


def test_the_order_of_a_description_does_not_matter(network, tmp_path, caplog):
    path = checkpoint.export(tmp_path / "weights.safetensors", network, ABOUT)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(dict(reversed(about.items()))))
    open_network(path)
    assert caplog.text == ""


def test_what_is_exported_names_no_folder_of_its_maker(network, tmp_path):
    about = {
        **ABOUT,
        "config": {"data": {"root": "/srv/someone/data", "sources": ["a"]}, "train": {"resume": "~/x/y.pt"}},
    }
    path = checkpoint.export(tmp_path / "weights.safetensors", network, about)
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["config"] == {"data": {"root": "data", "sources": ["a"]}, "train": {"resume": "y.pt"}}
    assert told["tensors_sha256"] == digest(network.state_dict())


# ---- files that do not say what they hold

DESCRIBED = {"model": {"name": "baseline_resnet18"}, "height": 32, "width": 64}


def as_torchreid(network):
    """What torchreid's engine writes after a test: the rank-1 is a NumPy scalar."""
    return {
        "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()},
        "epoch": 1,
        "rank1": np.float64(0.5),
    }


FOREIGN = {
    "torchreid's": as_torchreid,
    "a state dict": lambda network: network.state_dict(),
    "without its classifier": lambda network: {k: v for k, v in network.state_dict().items() if "classifier" not in k},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_does_not_say_what_it_holds_is_read_where_the_network_is_named(kind, network, tmp_path):
    torch.save(FOREIGN[kind](network), tmp_path / "model.pth.tar-1")
    model, about = open_network(tmp_path / "model.pth.tar-1", DESCRIBED)
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), network(images))
    assert about["num_classes"] == (2 if "without" in kind else 3)
    with pytest.raises(ValueError, match="say what network it holds with --model NAME"):
        open_network(tmp_path / "model.pth.tar-1")


def test_the_wrong_network_and_one_too_many_are_refused(network, tmp_path):
    torch.save(as_torchreid(network), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="of another architecture"):
        open_network(tmp_path / "a.pt", {**DESCRIBED, "model": {"name": "dfrst_resnet18"}})
    path = checkpoint.export(tmp_path / "weights.safetensors", network, ABOUT)
    with pytest.raises(ValueError, match=r"weights\.json says itself what network it holds: leave --model out"):
        open_network(path, DESCRIBED)


def test_a_size_that_a_named_network_does_not_take_is_said_before_any_image_is_read(tmp_path):
    torch.save(build_model(3, "osnet_x0_25", pretrained=False).state_dict(), tmp_path / "a.pt")
    described = {"model": {"name": "osnet_x0_25"}, "height": 64, "width": 32}
    open_network(tmp_path / "a.pt", described)
    with pytest.raises(ValueError, match=r"a\.pt does not take 8 x 8 pixels: RuntimeError"):
        open_network(tmp_path / "a.pt", {**described, "height": 8, "width": 8})
    with pytest.raises(KeyError, match=r"unknown model\.name 'osnet_x025' .did you mean 'osnet_x0_25'"):
        open_network(tmp_path / "a.pt", {**described, "model": {"name": "osnet_x025"}})


def test_numbers_of_numpy_are_read_and_objects_are_not(tmp_path):
    values = [
        np.float64(0.5),
        np.float32(2),
        np.int64(-3),
        np.bool_(True),
        np.float16(1),
        np.str_("a"),
        np.bytes_(b"a"),
    ]
    torch.save([*values, np.arange(3), np.array(["a", "bc"])], tmp_path / "a.pt")
    *read, numbers, words = read_safely(tmp_path / "a.pt")
    assert read == values and numbers.tolist() == [0, 1, 2] and words.tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("held", "named"),
    [(np.array([object()]), "numpy"), (range(3), "range"), (Path("x"), "PosixPath"), (np.datetime64("2026"), "numpy")],
)
def test_objects_are_not_read_and_named(held, named, tmp_path):
    torch.save({"a": held}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=rf"holds pickled Python objects beside tensors and numbers \(.*{named}"):
        read_safely(tmp_path / "b.pt")
