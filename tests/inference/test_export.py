"""A network for another runtime: any batch, the same numbers, and no file that gives others."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_dfrst.cli import invoke
from torchreid_dfrst.cli.export import ENDINGS
from torchreid_dfrst.inference import export as exporting
from torchreid_dfrst.inference.export import FORMATS, compare, export, to_torchscript
from torchreid_dfrst.models import build
from torchreid_dfrst.training import checkpoint

SIDE = 64
NETWORK = {"name": "dfrst_resnet18", "parts": 2, "stream_features": 16, "part_features": 8}
INSTALLED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torchscript": (),
}


def needs(kind):
    missing = [module for module in INSTALLED[kind] if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs the extra export: {', '.join(missing)}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    options = {name: value for name, value in NETWORK.items() if name != "name"}
    network = build(NETWORK["name"], 3, pretrained=False, **options)
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.mul_(1 + torch.rand_like(value))
    about = {"model": NETWORK, "num_classes": 3, "height": SIDE, "width": SIDE}
    return checkpoint.export(tmp_path_factory.mktemp("export") / "weights.safetensors", network, about)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(35):
        coarse = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        coarse.resize((80, 70)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_takes_any_batch_and_gives_pytorchs_embeddings(kind, weights, pictures, tmp_path, capsys):
    needs(kind)
    out = tmp_path / f"network{FORMATS[kind][0]}"
    words = ["export", str(weights), "--format", kind, "--out", str(out), "--verify", str(pictures), "--normalise"]
    assert invoke(words) == 0
    about = json.loads(out.with_name(f"{out.name}.json").read_text())
    assert about["parity"]["largest_difference"] < exporting.TOLERANCE and about["parity"]["lists"] == 35
    said = capsys.readouterr().out
    assert said.startswith("beside PyTorch on 35 of 35 images of pictures") and "35 of 35 lists of ten equal" in said
    assert about["input"]["height"] == SIDE and about["input"]["mean"] == [0.485, 0.456, 0.406]
    assert list(about["output"]["branches"]) == ["coarse", "attention", *(
        f"{division}_{part}" for division in ("height", "width", "channel") for part in (0, 1))]  # fmt: skip
    embedding = FORMATS[kind][2](out)(np.random.default_rng(0).standard_normal((5, 3, SIDE, SIDE)).astype(np.float32))
    assert embedding.shape == (5, about["output"]["width"])
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_a_convolution_and_a_transformer_of_timms(name, tmp_path):
    needs("onnx")
    pytest.importorskip("timm", reason="needs the extra timm")
    model = {**NETWORK, "name": "dfrst", "backbone": name}
    torch.manual_seed(0)
    network = build("dfrst", 3, pretrained=False, **{key: value for key, value in model.items() if key != "name"})
    for parameter in network.parameters():
        if parameter.dim() == 1 and parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.1)  # timm starts the last scale of a block near 0
    about = {"model": model, "num_classes": 3, "height": 64, "width": 96}
    checkpoint.export(tmp_path / "weights.safetensors", network, about)
    found = export(tmp_path / "weights.safetensors", tmp_path / "n.onnx", "onnx")
    assert found["parity"]["batches"] == [1, 2, 7, 33] and found["parity"]["lowest_cosine"] > 0.99999


def test_the_command_knows_the_ending_of_each_format():
    assert ENDINGS == {**{kind: ending for kind, (ending, *_) in FORMATS.items()}, "hub": "-hub"}


@pytest.mark.parametrize(
    ("name", "out"), [("model.pth.tar-1", "model.pth.tar-1.ts"), ("best.safetensors", "best.ts"), ("a.pth", "a.ts")]
)
def test_two_files_are_not_exported_to_one(name, out, monkeypatch):
    asked = []
    monkeypatch.setattr(exporting, "export", lambda weights, out, *_, **__: asked.append(out.name) or {"parity": {
        "images": "noise", "largest_difference": 0.0}, "sha256": {}})  # fmt: skip
    invoke(["export", name, "--format", "torchscript"])
    assert asked == [out]


def test_another_size_and_another_ending(weights, tmp_path):
    about = export(weights, tmp_path / "n.ts", "torchscript", size=(96, 80))
    assert (about["input"]["height"], about["input"]["width"]) == (96, 80) and not about["output"]["unit_length"]
    assert about["parity"]["images"] == "noise" and "lists" not in about["parity"]
    with pytest.raises(ValueError, match=r"give a name that ends in \.ts"):
        export(weights, tmp_path / "n.onnx", "torchscript")
    with pytest.raises(ValueError, match="1 rows, too few for 2 parts"):
        export(weights, tmp_path / "small.ts", "torchscript", size=(16, 96))
    with pytest.raises(ValueError, match="size is 0: 1 or more"):
        export(weights, tmp_path / "none.ts", "torchscript", size=(0, 96))
    assert set(about["sha256"]) == {"n.ts"}


def test_a_size_that_torchreids_network_does_not_take(tmp_path):
    torchreid = pytest.importorskip("torchreid")
    network = torchreid.models.build_model("osnet_x0_25", 3, pretrained=False)
    torch.save(network.state_dict(), tmp_path / "osnet.pth")
    described = {"model": {"name": "osnet_x0_25"}, "height": 64, "width": 32}
    with pytest.raises(ValueError, match=r"osnet.pth does not take 2 x 2 pixels: "):
        export(tmp_path / "osnet.pth", tmp_path / "n.ts", "torchscript", size=(2, 2), described=described)


def spoilt(change):
    """A format that writes TorchScript of a changed network."""

    def write(model, example, path):
        class Wrong(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, images):
                return change(self.model(images))

        exporting.to_torchscript(Wrong(), example, path)

    return {**FORMATS, "torchscript": (".ts", write, exporting.run_torchscript)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda embedding: embedding * (1 + 3e-4), "differs from PyTorch by"),
        (lambda embedding: embedding * float("nan"), "differs from PyTorch by nan"),
        (lambda embedding: embedding[:2], r"1 images at once|gives \(2, \d+\) where PyTorch gives \(7"),
    ],
    ids=["a little off", "NaN", "a fixed batch"],
)
def test_a_file_that_lies_is_not_kept(change, message, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "FORMATS", spoilt(change))
    with pytest.raises(ValueError, match=message):
        export(weights, tmp_path / "n.ts", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_lists_that_differ_by_more_than_ties_are_refused():
    random = np.random.default_rng(0)
    images = random.standard_normal((40, 3, 2, 2)).astype(np.float32)

    def right(x):
        return x.reshape(len(x), -1)

    def swapped(x):
        # only where all images are ranked do rows change their places
        return right(x)[::-1] if len(x) == 7 and not np.array_equal(x, images[:7]) else right(x)

    assert compare(right, right, images, "it")["equal_lists"] == 40
    with pytest.raises(ValueError, match="it, 1 images at once: it differs"):  # however small the numbers are
        compare(lambda x: 1e-6 * right(x), lambda x: 1.001e-6 * right(x), images, "it")
    with pytest.raises(ValueError, match=r"it differs from PyTorch by 0\.0002, more than 0\.0001"):  # however large
        compare(lambda x: 50 + right(x), lambda x: 50.0002 + right(x), images, "it")
    with pytest.raises(ValueError, match="it, 1 images at once: PyTorch's own embeddings are not finite"):
        compare(lambda x: np.nan * right(x), right, images, "it")
    small = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1e-4, 1e-4], np.float32)
    off = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.01e-4, 1e-4], np.float32)
    branches = [slice(0, 10), slice(10, 12)]
    assert compare(lambda x: small * right(x), lambda x: off * right(x), images, "it", ranked=False)
    with pytest.raises(ValueError, match="it differs"):  # a branch of small numbers counts as much
        compare(lambda x: small * right(x), lambda x: off * right(x), images, "it", False, branches)
    with pytest.raises(ValueError, match="it, all 40 images: it differs"):
        compare(right, swapped, images, "it")
    with pytest.raises(ValueError, match=r"\d+ of 40 images have another list of 10"):
        exporting._equal_lists(right(images), right(images[::-1]), "it")


def test_a_batch_frozen_by_the_network_is_no_success(weights, tmp_path, monkeypatch):
    needs("onnx")
    from torchreid_dfrst.models.attention import ChannelAttention

    def frozen(self, x):  # as it once was
        average, highest = self.mlp(torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)])).chunk(2)
        return torch.sigmoid(average + highest)

    monkeypatch.setattr(ChannelAttention, "forward", frozen)
    with pytest.raises(ValueError, match="cannot be exported as onnx"):
        export(weights, tmp_path / "n.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(weights, tmp_path, monkeypatch):
    (tmp_path / "few").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder of images at .*none"):
        export(weights, tmp_path / "n.ts", "torchscript", verify=tmp_path / "none")
    with pytest.raises(ValueError, match="few holds 0 images, and 33 or more are needed"):
        export(weights, tmp_path / "n.ts", "torchscript", verify=tmp_path / "few")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(OSError, match=r"pip install 'torchreid-dfrst\[export\]'"):
        export(weights, tmp_path / "n.onnx", "onnx")


def test_where_it_cannot_be_written_the_earlier_file_stays(weights, tmp_path):
    with pytest.raises(KeyError, match=r"no format 'tensorrt' .known: onnx, openvino, torchscript"):
        export(weights, tmp_path / "n.engine", "tensorrt")
    (tmp_path / "n.ts").write_bytes(b"earlier")
    (tmp_path / "n.ts.json").mkdir()
    with pytest.raises(ValueError, match=r"n\.ts\.json is a folder, where a file is to be written"):
        export(weights, tmp_path / "n.ts", "torchscript")
    assert (tmp_path / "n.ts").read_bytes() == b"earlier"
    export(weights, tmp_path / "new" / "folder" / "n.ts", "torchscript")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["n.ts", "n.ts.json"]


def test_what_lies_there_is_not_written_over(weights, tmp_path):
    torch.save({"model": 1}, tmp_path / "mine.ts")
    with pytest.raises(ValueError, match=r"mine\.ts would be written over, which is what is to be exported"):
        export(tmp_path / "mine.ts", tmp_path / "mine.ts", "torchscript")
    (tmp_path / "model.bin").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"model\.bin, where the weights of model\.xml go, is there already"):
        export(weights, tmp_path / "model.xml", "openvino")
    with pytest.raises(ValueError, match=r"model\.bin would be written over"):
        export(tmp_path / "model.bin", tmp_path / "model.xml", "openvino")
    assert (tmp_path / "model.bin").read_bytes() == b"precious"


def test_real_crops(weights, shared, tmp_path):
    needs("onnx")
    about = export(weights, tmp_path / "n.onnx", "onnx", verify=shared / "data" / "city-a" / "image_query")
    assert about["parity"]["equal_lists"] > 0.99 * about["parity"]["lists"] > 100


def test_torchscript_that_cannot_be_written_is_an_error_and_not_the_end_of_the_process(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        to_torchscript(torch.nn.ReLU(), torch.ones(1), tmp_path / "nowhere" / "a.ts")
