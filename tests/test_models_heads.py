"""Parts and their heads, against one part at a time."""

import warnings

import pytest
import torch
from torch import nn

from torchreid_dfrst.models.heads import BNNeckHeads, PartConvolution


@pytest.fixture
def x():
    return torch.randn(6, 16, 8, 12, generator=torch.Generator().manual_seed(0))


def cut(x, division, parts):
    """The parts of a map, cut with a knife."""
    axis = {"channel": 1, "height": 2, "width": 3, "whole": 0}[division]
    return [x] if division == "whole" else x.chunk(parts, dim=axis)


def mean_cube_root(part):
    return part.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


POOLED = {"average": lambda part: part.mean((2, 3)), "max": lambda part: part.amax((2, 3)), "gem": mean_cube_root}


@pytest.mark.parametrize("pool", POOLED)
@pytest.mark.parametrize(
    ("division", "parts"), [("whole", 1), ("height", 4), ("width", 4), ("channel", 4), ("width", 1)]
)
def test_heads_equal_one_head_at_a_time(x, division, parts, pool):
    torch.manual_seed(1)
    heads = BNNeckHeads(16, 5, 7, division, parts, pool)
    nn.init.normal_(heads.neck.weight)
    feature, neck = heads(x)
    logits = heads.logits(neck)
    assert feature.shape == neck.shape == (6, parts, 5)
    assert logits.shape == (6, parts, 7)
    for number, part in enumerate(cut(x, division, parts)):
        pooled = POOLED[pool](part)
        own = slice(5 * number, 5 * number + 5)
        expected = pooled @ heads.reduce.weight[own, :, 0].T
        torch.testing.assert_close(feature[:, number], expected)
        deviation = torch.sqrt(expected.var(0, unbiased=False) + heads.neck.eps)
        expected = (expected - expected.mean(0)) / deviation * heads.neck.weight[own]
        torch.testing.assert_close(neck[:, number], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            logits[:, number],
            expected @ heads.classifier.weight[7 * number : 7 * number + 7, :, 0].T,
            rtol=1e-4,
            atol=1e-6,
        )


def test_rows_that_do_not_divide_evenly_overlap(x):
    heads = BNNeckHeads(16, None, 7, "height", 4)
    feature, _ = heads(x[:, :, :6])  # 6 rows, 4 strips: rows 0-1, 1-2, 3-4, 4-5
    expected = torch.stack([x[:, :, a : a + 2].mean((2, 3)) for a in (0, 1, 3, 4)], dim=1)
    torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize("division", ["height", "width"])
@pytest.mark.parametrize("size", [6, 7, 8, 14])
def test_pytorch_s_old_onnx_exporter_gives_the_same_strips(division, size, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    heads = BNNeckHeads(16, 5, 7, division, 4).eval()
    maps = torch.randn(3, 16, size, size)
    names = {"input_names": ["maps"], "dynamic_axes": {"maps": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own age, and of sizes that it takes for constants
        torch.onnx.export(heads, (maps[:2],), str(tmp_path / "heads.onnx"), dynamo=False, **names)
    session = runtime.InferenceSession(str(tmp_path / "heads.onnx"), providers=["CPUExecutionProvider"])
    feature, neck = (torch.from_numpy(found) for found in session.run(None, {"maps": maps.numpy()}))
    torch.testing.assert_close((feature, neck), heads(maps))


def test_the_neck_has_no_bias_that_could_be_trained():
    heads = BNNeckHeads(16, 5, 7)
    assert sorted(name for name, _ in heads.named_parameters()) == ["classifier.weight", "neck.weight", "reduce.weight"]
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(heads)
    assert synchronised.neck.bias is None


def test_the_matrix_product_is_the_grouped_convolution():
    module, x = PartConvolution(4, 6, 5), torch.randn(3, 4, 6)
    convolved = nn.Conv1d.forward(module, x.flatten(1).unsqueeze(2))
    torch.testing.assert_close(module(x), convolved.view(3, 4, 5))


@pytest.mark.parametrize("division", ["height", "width"])
def test_a_map_with_fewer_rows_than_parts_is_refused(division):
    with pytest.raises(ValueError, match="too few for 4 parts"):
        BNNeckHeads(16, 5, 7, division, 4)(torch.zeros(2, 16, 3, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"division": "heigth"}, KeyError, "did you mean 'height'"),
        ({"pool": "maximum"}, KeyError, "did you mean 'max'"),
        ({"division": "channel", "parts": 3}, ValueError, "divisor of the map's 16 channels"),
        ({"parts": 0}, ValueError, "parts is 0"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        BNNeckHeads(16, 5, 7, **options)
