"""Where a backbone starts: ImageNet through torchvision's own path, offline, and files."""

import hashlib
import json
import logging
import urllib.error

import pytest
import torch
import torchreid
import torchvision
from safetensors.torch import save_file

from torchreid_dfrst.models import build, load_backbone, pretrained
from torchreid_dfrst.models.weights import read_weights
from torchreid_dfrst.training import checkpoint

WEIGHTS = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub cache, and no network."""

    def blocked(url, *args, **kwargs):
        raise urllib.error.URLError("the network is blocked")

    monkeypatch.setattr(torch.hub, "download_url_to_file", blocked)
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def resnet18(seed=0):
    torch.manual_seed(seed)
    network = torchvision.models.resnet18()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape).abs() if "running_var" in name else torch.randn(value.shape))
    return network


def dfrst(**options):
    return build("dfrst_resnet18", 5, pretrained=False, **options)


def bot(**options):
    return build("bot_resnet18", 5, pretrained=False, **options)


def assert_both_streams_start_from(state, model):
    own = model.state_dict()
    for stream in ("coarse", "fine"):
        for name in state:
            if name.startswith(("layer3", "layer4")):
                assert torch.equal(own[f"streams.{stream}.{name}"], state[name]), name
    assert torch.equal(own["trunk.conv1.weight"], state["conv1.weight"])
    assert torch.equal(own["trunk.layer2.1.bn2.running_var"], state["layer2.1.bn2.running_var"])


def test_pretrained_reads_torchvisions_file_into_both_streams(hub):
    state = resnet18().state_dict()
    torch.save(state, hub / WEIGHTS.url.rpartition("/")[2])
    model = build("dfrst_resnet18", 5)
    assert_both_streams_start_from(state, model)
    loaded = load_backbone(model)
    assert loaded.unused == ["fc.weight", "fc.bias"]
    assert all(".attention." in name for name in loaded.fresh)
    assert len(loaded.fresh) == 3


def test_without_network_the_message_says_what_to_do(hub):
    with pytest.raises(OSError, match="the network is blocked") as error:
        build("dfrst_resnet18", 5)
    file = hub / WEIGHTS.url.rpartition("/")[2]
    for part in (str(file), WEIGHTS.url, "pretrained=False"):
        assert part in str(error.value)


def test_a_broken_file_in_the_cache_is_named(hub):
    file = hub / WEIGHTS.url.rpartition("/")[2]
    file.write_bytes(b"half a download")
    with pytest.raises(OSError, match=file.name):
        build("dfrst_resnet18", 5)


def test_a_backbone_from_a_resnet_file_takes_the_place_of_imagenet(tmp_path, hub):
    state = resnet18().state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "backbone.pth")
    assert_both_streams_start_from(state, build("dfrst_resnet18", 5, weights=tmp_path / "backbone.pth"))


def test_a_backbone_from_another_of_our_networks(tmp_path):
    city = build("dfrst_resnet18", 50, pretrained=False)
    torch.save(city.state_dict(), tmp_path / "city.pth")
    model = dfrst()
    heads = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("heads.")}
    loaded = load_backbone(model, tmp_path / "city.pth")
    after = model.state_dict()
    assert loaded.fresh == []
    assert all(torch.equal(after[name], city.state_dict()[name]) for name in loaded.taken)
    assert all(torch.equal(after[name], value) for name, value in heads.items())
    assert all(name.startswith("heads.") for name in loaded.unused)


def test_one_stream_starts_two_and_another_split_fits(tmp_path):
    coarse = dfrst(fine=False, divisions=(), attention="none", shared_stages=3)
    torch.save(coarse.state_dict(), tmp_path / "coarse.pth")
    model = dfrst()
    loaded = load_backbone(model, tmp_path / "coarse.pth")
    assert all(".attention." in name for name in loaded.fresh)
    own = model.state_dict()
    assert torch.equal(own["streams.fine.layer4.0.conv1.weight"], own["streams.coarse.layer4.0.conv1.weight"])
    assert torch.equal(own["streams.fine.layer3.0.conv1.weight"], coarse.state_dict()["trunk.layer3.0.conv1.weight"])


def exported(folder, start):
    """A file as training writes it, of a network that started from something."""
    return checkpoint.export(folder / "weights.safetensors", bot(), {"backbone": start})


LICENSED = {"file": "first.pth", "licence": "CC-BY-NC-4.0", "sha256": "12" * 32}


@pytest.mark.parametrize("kind", ["weights.safetensors", "step.pt"])
def test_the_licence_of_what_came_first_goes_on_with_the_hash_of_the_file_that_was_read(kind, tmp_path, caplog):
    exported(tmp_path, LICENSED)
    checkpoint.save(tmp_path / "step.pt", {"state_dict": bot().state_dict(), "describe": {"backbone": LICENSED}})
    path = tmp_path / kind
    pretrained.say.cache_clear()
    for _ in range(2):
        model = bot(weights=path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.start == {"file": kind, "licence": "CC-BY-NC-4.0", "sha256": sha256, "earlier": LICENSED}
    said = [line for line in caplog.messages if "CC-BY-NC-4.0, which may restrict" in line]
    assert len(said) == 1 and sha256 in said[0]
    (tmp_path / "third").mkdir()
    third = bot(weights=exported(tmp_path / "third", model.start))
    assert third.start["licence"] == "CC-BY-NC-4.0" and third.start["earlier"]["earlier"] == LICENSED


def test_files_that_name_no_start_have_a_hash_and_no_licence(tmp_path, caplog):
    exported(tmp_path, None)
    torch.save(resnet18().state_dict(), tmp_path / "bare.pth")
    for name in ("weights.safetensors", "bare.pth"):
        sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert bot(weights=tmp_path / name).start == {"file": name, "licence": None, "sha256": sha256}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_description_of_other_weights_gives_no_licence(tmp_path):
    path = exported(tmp_path, LICENSED)
    save_file(bot().state_dict(), path)
    with pytest.raises(ValueError, match=r"does not hold the weights that weights\.json was written for"):
        bot(weights=path)


@pytest.mark.parametrize("change", ["the licence", "the whole description"])
def test_a_licence_is_not_left_behind_in_silence(change, tmp_path):
    path = exported(tmp_path, LICENSED)
    beside = path.with_suffix(".json")
    if change == "the licence":
        beside.write_text(json.dumps({**json.loads(beside.read_text()), "backbone": None}))
        with pytest.raises(ValueError, match=r"weights\.json is not as it was written with weights\.safetensors"):
            bot(weights=path)
    else:
        beside.unlink()
        with pytest.raises(FileNotFoundError, match=r"weights\.json is missing: it has the licence of weights\.safe"):
            bot(weights=path)


@pytest.mark.parametrize("content", ["[1, 2]", "", '{"backbone": {"licence": ["x"]}}'])
def test_a_json_of_another_program_beside_weights_is_passed_over(content, tmp_path, caplog):
    save_file(resnet18().state_dict(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    (tmp_path / "a.json").write_text(content)
    assert bot(weights=tmp_path / "a.safetensors").start["licence"] is None
    assert "a.json is no description of ours" in caplog.text


def test_weights_on_a_hub_are_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"model\.weights is hf://a/b: it takes a file"):
        bot(weights="hf://a/b")


def test_our_own_file_of_another_backbone_says_which(tmp_path):
    about = {"backbone": None, "model": {"name": "bot", "backbone": "resnet18"}}
    path = checkpoint.export(tmp_path / "weights.safetensors", bot(), about)
    with pytest.raises(ValueError, match=r"is not a backbone for resnet50: .*; it is of 'resnet18': give that"):
        build("bot", 5, pretrained=False, weights=path)


def test_torchreids_own_network_takes_our_weights_and_says_their_licence(tmp_path, caplog):
    pretrained.say.cache_clear()
    network = torchreid.models.build_model("resnet18", 5, pretrained=False)
    load_backbone(network, exported(tmp_path, LICENSED))
    assert network.start["licence"] == "CC-BY-NC-4.0", "training writes it beside the weights"
    assert "backbone ResNet starts from" in caplog.text and "CC-BY-NC-4.0" in caplog.text


@pytest.mark.parametrize("licence", ["apache-2.0", "Apache-2.0", "MIT", "bsd-3-clause", "BSD-3-Clause", "bsd"])
def test_free_licences_are_no_more_than_named(licence):
    assert pretrained.FREE.fullmatch(licence)


@pytest.mark.parametrize(
    "licence",
    ["cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr", "dinov3-license", "not stated", "mit-0-nc"],
)
def test_every_other_licence_may_restrict(licence):
    assert not pretrained.FREE.fullmatch(licence)


def test_safetensors(tmp_path):
    state = resnet18().state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    model = dfrst()
    load_backbone(model, tmp_path / "backbone.safetensors")
    assert_both_streams_start_from(state, model)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        dfrst(weights=tmp_path / "nowhere.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_no_weights_is_refused(tmp_path, suffix):
    path = tmp_path / f"odd.{suffix}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"odd.* (is torn or not a checkpoint|is not a whole)"):
        load_backbone(dfrst(), path)


def test_pickled_objects_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18(), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole\.pth holds pickled Python objects"):
        load_backbone(dfrst(), tmp_path / "whole.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        load_backbone(dfrst(), tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_backbone(dfrst(), tmp_path / "odd.pth")


def test_tensors_that_would_be_lost_or_cast_are_refused(tmp_path):
    network = torchvision.models.resnet18().state_dict()
    torch.save({**network, "module.conv1.weight": network["conv1.weight"]}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two\.pth has tensors with and without 'module\.' before the same name"):
        load_backbone(dfrst(), tmp_path / "two.pth")
    for kind in (torch.complex64, torch.int8):
        torch.save({**network, "conv1.weight": network["conv1.weight"].to(kind)}, tmp_path / "cast.pth")
        with pytest.raises(ValueError, match=rf"'conv1.weight' is of type {kind}, the network's .* torch.float32"):
            load_backbone(dfrst(), tmp_path / "cast.pth")
    torch.save({**network, "conv1.weight": network["conv1.weight"].to("meta")}, tmp_path / "meta.pth")
    with pytest.raises(ValueError, match=r"meta\.pth holds no state dict"):
        load_backbone(dfrst(), tmp_path / "meta.pth")


def test_an_altered_file_is_torn(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.ones(100).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth is torn .*does not match its checksum"):
        read_weights(path)
    torch.load(path, weights_only=True)  # which PyTorch itself would not see


def test_weights_of_another_architecture_are_refused_and_change_nothing(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    wide = torchvision.models.resnet18(width_per_group=64).state_dict() | {"layer3.0.conv1.weight": torch.zeros(2, 2)}
    torch.save(wide, tmp_path / "wide.pth")
    model = dfrst()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    more = r"96 of its tensors .* have no place there, first 'layer1\.2\.conv1\.weight'; it fits 'resnet34': give that"
    with pytest.raises(ValueError, match=rf"resnet34\.pth is not a backbone for resnet18: {more}"):
        load_backbone(model, tmp_path / "resnet34.pth")
    with pytest.raises(ValueError, match=r"tensors are missing, first 'conv1.weight'"):
        load_backbone(model, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"'layer3.0.conv1.weight' has shape \(2, 2\)"):
        load_backbone(model, tmp_path / "wide.pth")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_saved_and_loaded_the_network_gives_the_same_embedding(tmp_path):
    images = torch.ones(2, 3, 64, 64)
    model = dfrst().eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = dfrst().eval()
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    assert torch.equal(other(images), model(images))
