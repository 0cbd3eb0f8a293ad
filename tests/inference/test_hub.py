"""A folder to share: what its README says, and a network from it."""

import importlib.util
import json
import shutil
import sys
import types

import pytest
import torch

from torchreid_dfrst.cli import invoke
from torchreid_dfrst.inference import from_pretrained
from torchreid_dfrst.inference.hub import write_folder


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared")
    evaluate = f"evaluate {tiny_run}/features.npz --out {out}/card evaluate.rerank false"
    assert invoke(evaluate.split()) == 0
    words = f"export {tiny_run}/run/weights.safetensors --format hub --card {out}/card/card.json --out {out}/hub"
    assert invoke(words.split()) == 0
    return out / "hub"


def test_the_readme_says_what_it_is_and_how_it_was_measured(folder):
    text = (folder / "README.md").read_text()
    told = json.loads((folder / "weights.json").read_text())
    for part in ("library_name: torchreid-dfrst", "dfrst_resnet18", "64 x 64", "veri776", "mAP", "from_pretrained"):
        assert part in text
    assert f"| trained on | veri776, {told['num_classes']} identities |" in text
    assert "| backbone started from | random values |" in text and "license: other\nlicense_name: not-stated\n" in text
    assert str(folder.parent.parent) not in text + (folder / "weights.json").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "weights.json", "weights.safetensors"]


def test_a_network_from_a_folder_and_its_hash(folder, caplog):
    network, about = from_pretrained(folder)
    assert about["weights_sha256"] in caplog.text
    caplog.clear()
    again, _ = from_pretrained(folder, sha256=about["weights_sha256"])
    assert caplog.text == ""
    images = torch.ones(1, 3, 64, 64)
    assert torch.equal(network(images), again(images))
    with pytest.raises(ValueError, match="it is another file"):
        from_pretrained(folder, sha256="0" * 64)
    described = folder / "weights.json"
    usual = described.read_text()
    described.write_text(usual.replace('"height": 64', '"height": 32'))
    with pytest.raises(ValueError, match=r"weights\.json is not as it was written with"):
        from_pretrained(folder, sha256=about["weights_sha256"])
    described.write_text(usual)
    with pytest.raises(FileNotFoundError, match="no folder"):
        from_pretrained(folder / "none")


def test_a_network_from_the_hub(folder, tmp_path, monkeypatch, caplog):
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(shutil.copytree(folder, tmp_path / "c0ffee", dirs_exist_ok=True))

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: True)
    _, about = from_pretrained("hf://someone/cars")
    assert asked == [("someone/cars", None, ["weights.safetensors", "weights.json"])]
    assert "revision 'c0ffee'" in caplog.text
    caplog.clear()
    from_pretrained("hf://someone/cars", revision="c0ffee", sha256=about["weights_sha256"])
    assert caplog.text == ""
    from_pretrained("hf://someone/cars", revision="main", sha256=about["weights_sha256"])
    assert "revision 'c0ffee'" in caplog.text, "a branch moves on"

    class GatedRepoError(Exception):
        pass

    def refused(*args, **kwargs):
        raise GatedRepoError("401\nmore")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", refused)
    with pytest.raises(OSError, match=r"GatedRepoError 401.: accept its licence"):
        from_pretrained("hf://someone/cars")
    with pytest.raises(ValueError, match="is no hf://OWNER/NAME"):
        from_pretrained("hf://cars")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(OSError, match=r"torchreid-dfrst\[hub\]"):
        from_pretrained("hf://someone/cars")


def test_a_card_of_other_weights_is_refused(folder, tmp_path):
    card = folder.parent / "card"
    changed = json.loads((card / "card.json").read_text())
    changed["source"]["weights_sha256"] = "0" * 64
    (tmp_path / "card.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="is of other weights than"):
        write_folder(folder / "weights.safetensors", tmp_path / "out", tmp_path / "card.json")
    words = f"export {folder}/weights.safetensors --format hub --normalise --out {tmp_path}/out"
    with pytest.raises(ValueError, match="--format hub copies weights as they are"):
        invoke(words.split())
    with pytest.raises(ValueError, match=r"is no weights\.safetensors"):
        write_folder(tmp_path / "card.json", tmp_path / "out")


def test_other_weights_are_not_written_over(folder, tmp_path):
    out = tmp_path / "there"
    for _ in range(2):
        write_folder(folder / "weights.safetensors", out)
    (out / "weights.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"weights\.safetensors is there already and holds something else"):
        write_folder(folder / "weights.safetensors", out)
    assert (out / "weights.safetensors").read_bytes() == b"another"


@pytest.mark.parametrize("name", ["README.md", "weights.json"])
def test_another_readme_and_another_description_are_not_written_over(name, folder, tmp_path):
    (tmp_path / name).write_text("my project")
    with pytest.raises(ValueError, match=f"{name} is there already and holds something else: give another folder"):
        write_folder(folder / "weights.safetensors", tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["my project"]


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match=r"revision 'abc' of .*pin it by sha256"):
        from_pretrained(folder, revision="abc")
