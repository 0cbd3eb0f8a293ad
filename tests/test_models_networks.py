"""Every registered network, and every option, keeps torchreid's contract and trains all of its parameters."""

from importlib.util import find_spec

import pytest
import torch

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import DFRST, FACTORIES, build
from torchreid_dfrst.models.backbones import BACKBONES, cut
from torchreid_dfrst.models.zoo import PLUS

PARTS = [f"{division}_{number}" for division in ("height", "width", "channel") for number in range(4)]
OPTIONS = [{"attention": placement} for placement in ("spatial-channel", "parallel", "channel", "spatial", "none")] + [
    {"divisions": ["channel", "height"]},
    {"divisions": ["width"], "parts": 2},
    {"shared_stages": 3},
    {"shared_stages": 1, "last_stride": 2, "parts": 2},
    {"reduction": 4, "kernel_size": 3, "stream_features": 64, "part_features": 32},
    {"backbone": "resnet34"},
    {"backbone": "resnext50_32x4d"},
]


def images(count=4, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def fresh(name, **options):
    torch.manual_seed(0)
    return build(name, 6, pretrained=False, **options)


def assert_every_parameter_learns(model, loss):
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert parameter.grad.any(), f"{name} has a gradient of 0"


@pytest.mark.parametrize("name", [name for name in FACTORIES if name not in ("dfrst_convnext", "dfrst_vit")])
def test_a_training_step_reaches_every_parameter(name):
    model = fresh(name, loss="triplet")
    logits, features = model(images())
    assert len(logits) == len(features) == len(model.branches)
    assert all(x.shape == (4, 6) for x in logits)
    assert [x.shape[1] for x in features] == [s.stop - s.start for s in model.branches.values()]
    assert_every_parameter_learns(model, DFRSTLoss()(logits, features, torch.tensor([0, 0, 1, 1])).total)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_training_step_reaches_every_parameter_under_every_option(options):
    model = fresh("dfrst_resnet18", loss="triplet", **options)
    loss = DFRSTLoss()(*model(images()), torch.tensor([0, 0, 1, 1]))
    assert_every_parameter_learns(model, loss.total)


def test_softmax_gives_logits_and_evaluation_the_embedding():
    model = fresh("dfrst_resnet18")
    logits = model(images())
    assert isinstance(logits, tuple)
    assert all(x.shape == (4, 6) for x in logits)
    assert_every_parameter_learns(model, sum(x.square().sum() + x[:, 0].sum() for x in logits))
    embedding = model.eval()(images(3, side=96))
    assert embedding.shape == (3, model.feature_dim)
    assert list(model.branches.values())[-1].stop == model.feature_dim


def test_the_papers_network_has_fourteen_branches_in_a_fixed_order():
    model = fresh("dfrst_resnet18", divisions=["channel", "width", "height"])
    assert list(model.branches) == ["coarse", "attention", *PARTS]
    assert model.feature_dim == 512 + 512 + 12 * 256 == 4096
    edges = [(s.start, s.stop) for s in model.branches.values()]
    assert edges[:4] == [(0, 512), (512, 1024), (1024, 1280), (1280, 1536)]
    assert [stop for _, stop in edges[:-1]] == [start for start, _ in edges[1:]]


def test_a_slice_is_what_its_branch_gives():
    model = fresh("dfrst_resnet18").eval()
    with torch.no_grad():
        embedding, maps = model(images()), model.feature_maps(images())
        for group, head in model.heads.items():
            _, neck = head(maps["coarse" if group == "coarse" else "fine"])
            for part in range(head.parts):
                where = model.branches[group if head.parts == 1 else f"{group}_{part}"]
                torch.testing.assert_close(embedding[:, where], neck[:, part])


def test_normalised_branches_weigh_the_same_and_train_as_before():
    one, other = fresh("dfrst_resnet18"), fresh("dfrst_resnet18", normalise_branches=True)
    for plain, normalised in zip(one(images()), other(images()), strict=True):
        assert torch.equal(plain, normalised)
    plain, normalised = (model.eval()(images()) for model in (one, other))
    for where in other.branches.values():
        torch.testing.assert_close(normalised[:, where], torch.nn.functional.normalize(plain[:, where]))


def test_the_components_of_table_three_are_what_they_are_called():
    assert list(fresh("dfrst_coarse").branches) == ["coarse"]
    attention = fresh("dfrst_attention")
    assert list(attention.branches) == ["coarse", "attention"]
    assert list(attention.streams) == ["coarse", "fine"]
    assert hasattr(attention.streams["fine"].layer4[-1], "attention")


def test_the_better_network_is_the_papers_with_other_options():
    plus, same = fresh("dfrst_plus_resnet18").eval(), fresh("dfrst_resnet18", **PLUS).eval()
    assert torch.equal(plus(images()), same(images()))
    assert fresh("dfrst_plus_resnet18", parts=1).branches != plus.branches


def test_resnet50_at_the_papers_size():
    model = fresh("dfrst").eval()
    with torch.no_grad():
        maps = model.feature_maps(images(1, side=256))
    assert {name: tuple(x.shape) for name, x in maps.items()} == dict.fromkeys(("coarse", "fine"), (1, 2048, 16, 16))
    assert model.heads["channel"].reduce.weight.shape == (4 * 256, 512, 1)
    assert 52e6 < sum(p.numel() for p in model.parameters()) < 54e6


def test_the_peers_are_what_they_are_called():
    prn = fresh("prn_resnet18")
    assert list(prn.branches) == [f"{division}_{number}" for division in ("height", "channel") for number in range(4)]
    assert {head.pool for head in prn.heads.values()} == {"max"}
    pcb = fresh("pcb", backbone="resnet18")
    assert list(pcb.branches) == [f"height_{number}" for number in range(4)]
    assert [(head.pool, head.features) for head in pcb.heads.values()] == [("average", 256)]
    assert pcb.feature_maps(images())["parts"].shape[2:] == (4, 4)
    bot, plain = fresh("bot_resnet18", loss="triplet"), fresh("baseline_resnet18", loss="triplet")
    assert bot.branches == plain.branches == {"whole": slice(0, 512)}
    assert bot.feature_maps(images())["whole"].shape[2:] == (4, 4)
    assert plain.feature_maps(images())["whole"].shape[2:] == (2, 2)
    _, (feature,) = plain(images())
    torch.testing.assert_close(plain.heads["whole"](plain.feature_maps(images())["whole"])[1][:, 0], feature)
    with pytest.raises(ValueError, match="divisions is empty"):
        fresh("prn_resnet18", divisions=[])


def test_the_streams_share_the_trunk_and_nothing_else():
    model = fresh("dfrst_resnet18")
    assert [name for name, _ in model.trunk.named_children()] == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]
    coarse, fine = model.streams["coarse"].state_dict(), model.streams["fine"].state_dict()
    assert set(coarse) < set(fine)
    assert not torch.equal(coarse["layer3.0.conv1.weight"], fine["layer3.0.conv1.weight"])


def test_torchreids_activation_map_tool_gets_a_map():
    model = fresh("dfrst_resnet18").eval()
    seen = model(images(2), return_featuremaps=True)
    assert seen.dim() == 4
    torch.testing.assert_close(seen, model.feature_maps(images(2))["fine"])


def test_the_spatial_gate_is_between_0_and_1_and_leaves_the_network_alone():
    model = fresh("dfrst_resnet18").eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gate = model.spatial_gate(images(2))
    assert gate.shape == (2, 4, 4) and 0 < gate.min() < gate.max() < 1
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert fresh("dfrst_resnet18", attention="channel").eval().spatial_gate(images(1)) is None
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        model.train().spatial_gate(images(2))


def test_half_precision_training_is_finite():
    model = fresh("dfrst_resnet18", loss="triplet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = DFRSTLoss()(*model(images()), torch.tensor([0, 0, 1, 1]))
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attention": "chanel-spatial"}, KeyError, "did you mean 'channel-spatial'"),
        ({"divisions": ["hight"]}, KeyError, "did you mean 'height'"),
        ({"divisions": ["width", "width"]}, ValueError, "at most once"),
        ({"backbone": "resnet_50"}, KeyError if find_spec("timm") else OSError, "did you mean 'resnet50'"),
        ({"loss": "tripelt"}, KeyError, "did you mean 'triplet'"),
        ({"shared_stages": 4}, ValueError, "shared_stages is 4"),
        ({"last_stride": 3}, ValueError, "last_stride is 3"),
        ({"parts": 5}, ValueError, "divisor of the map's 512 channels"),
        ({"fine": False}, ValueError, r"pass divisions=\(\)"),
        ({"atention": "none"}, KeyError, "unknown model option 'atention' .did you mean 'attention'"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        fresh("dfrst_resnet18", **options)


def test_unknown_models_are_named():
    with pytest.raises(KeyError, match="did you mean 'dfrst_resnet18'"):
        fresh("dfrst_resnet_18")


def test_a_backbone_is_a_row(monkeypatch):
    def build_toy(name, shared_stages, last_stride):
        sizes = {"stem": (3, 4), "one": (4, 8), "two": (8, 8), "three": (8, 16), "four": (16, 24)}
        layers = [(name, torch.nn.Conv2d(*size, 3, last_stride)) for name, size in sizes.items()]
        return *cut(layers, 1 + shared_stages), 24, 1

    monkeypatch.setitem(BACKBONES, "toy", build_toy)
    model = fresh("prn", backbone="toy", loss="triplet", divisions=["height"])
    assert [name for name, _ in model.trunk.named_children()] == ["stem", "one", "two"]
    assert [name for name, _ in model.streams["parts"].named_children()] == ["three", "four"]
    logits, features = model(images())
    assert_every_parameter_learns(model, DFRSTLoss()(logits, features, torch.tensor([0, 0, 1, 1])).total)


def test_images_too_small_for_the_parts_are_refused():
    with pytest.raises(ValueError, match="2 rows, too few for 4 parts"):
        fresh("dfrst_resnet18")(images(side=32))


def test_defaults_are_the_papers():
    model = DFRST(6)
    assert model.backbone == "resnet50"
    assert model.streams["fine"].layer4[-1].attention.gates["channel"].mlp[0].weight.shape[:2] == (128, 2048)
    assert model.streams["fine"].layer4[-1].attention.gates["spatial"].conv.kernel_size == (7, 7)
