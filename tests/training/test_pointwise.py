"""1x1 convolutions that take the fast kernel give the numbers of those that do not."""

import pytest
import torch
from torch import nn

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.tables import build_model
from torchreid_dfrst.training import build_optimizer
from torchreid_dfrst.training.pointwise import PointwiseConvolution, quicken_pointwise
from torchreid_dfrst.training.step import TrainStep


@pytest.mark.parametrize("count", [1, 5, 8, 16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("height", [1, 7, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(count, layout, height, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, 1, bias=bias)
    ours = quicken_pointwise(nn.Sequential(plain))[0]
    assert type(ours) is PointwiseConvolution and ours.weight is plain.weight
    x = torch.randn(count, 6, height, 5).to(memory_format=layout)
    weight = torch.randn(count, 10, height, 5)
    results = []
    for layer in (plain, ours):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = layer(given)
        gradients = torch.autograd.grad((out * weight).sum(), [given, *layer.parameters()])
        results.append((out, *gradients))
    assert results[0][0].abs().max() > 0.1
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_other_convolutions_are_left_alone():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1, groups=2)
    )
    before = list(layers)
    assert list(quicken_pointwise(layers)) == before


def slow_kernels(model, images):
    model.train()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        sum(x.sum() for x in model(images)[0]).backward()
    return sum(entry.count for entry in profile.key_averages() if entry.key.startswith("aten::_slow_conv2d"))


def test_a_step_of_few_images_on_one_thread_takes_the_fast_kernel():
    images = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    model = build_model(4, name="dfrst", pretrained=False).to(memory_format=torch.channels_last)
    names = list(model.state_dict())
    assert slow_kernels(model, images) > 100
    step = TrainStep(model, build_optimizer(model), DFRSTLoss(), torch.device("cpu"))
    # what is left are the two layers of channel attention, whose maps have one row
    assert slow_kernels(step.model, images) < 10
    assert list(model.state_dict()) == names
