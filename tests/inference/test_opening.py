"""A network from the file that training wrote, and files that are none."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from torchreid_dfrst.inference import open_network
from torchreid_dfrst.models import build
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
    assert about == {**ABOUT, "weights": str(path), "weights_sha256": digest}
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), network(images))


def spoil_json(content):
    return lambda path: path.with_suffix(".json").write_text(content)


MISTAKES = {
    "nowhere": (Path.unlink, FileNotFoundError, r"no weights at .*weights\.safetensors"),
    "no words": (lambda path: path.with_suffix(".json").unlink(), FileNotFoundError, r"\.json is missing: .*together"),
    "no JSON": (spoil_json("{"), ValueError, r"\.json is not JSON .*take it from the training run again"),
    "little said": (spoil_json(json.dumps({"model": {}, "height": 1})), ValueError, "its num_classes, width: only"),
    "other network": (spoil_json(json.dumps({**ABOUT, "num_classes": 4})), ValueError, "another architecture"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:999]), ValueError, "not a whole safetensors file"),
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
