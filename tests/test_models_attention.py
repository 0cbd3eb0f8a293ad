"""AttentionNet against the paper's equations, written out."""

import pytest
import torch
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from torchreid_dfrst.models.attention import (
    PLACEMENTS,
    AttentionNet,
    AttentiveBlock,
    ChannelAttention,
    SpatialAttention,
)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return 5 * torch.randn(2, 32, 5, 6)


def channel_gate(x, first, second):
    gate = torch.empty(x.shape[:2])
    for n in range(len(x)):
        average = torch.stack([plane.sum() / plane.numel() for plane in x[n]])
        highest = torch.stack([plane.flatten().sort().values[-1] for plane in x[n]])
        mlp = [second @ torch.clamp(first @ squeezed, min=0) for squeezed in (average, highest)]
        gate[n] = 1 / (1 + torch.exp(-(mlp[0] + mlp[1])))
    return gate


def test_channel_gate_equals_the_equation(x):
    module = ChannelAttention(32, reduction=4)
    first, second = (layer.weight[:, :, 0, 0] for layer in (module.mlp[0], module.mlp[2]))
    assert first.shape == (8, 32)
    expected = channel_gate(x, first, second)
    assert expected.std() > 0.01, "gates that are all alike would prove nothing"
    torch.testing.assert_close(module(x)[:, :, 0, 0], expected)


def test_spatial_gate_is_one_convolution_of_maximum_and_average_in_this_order(x):
    module = SpatialAttention(kernel_size=3)
    weight = module.conv.weight[0]  # (2, 3, 3)
    highest, average = functional.pad(x.max(1).values, (1,) * 4), functional.pad(x.sum(1) / 32, (1,) * 4)
    gate = module(x)
    assert gate.shape == (2, 1, 5, 6)
    for j, k in [(0, 0), (2, 3), (4, 5)]:
        rows, columns = slice(j, j + 3), slice(k, k + 3)
        value = (weight * torch.stack([highest, average], 1)[:, :, rows, columns]).sum((1, 2, 3))
        torch.testing.assert_close(gate[:, 0, j, k], 1 / (1 + torch.exp(-value)))


def test_placements_of_table_nine(x):
    results = {}
    for placement in PLACEMENTS:
        net = AttentionNet(32, placement, reduction=4)
        gates = dict(net.gates)
        if placement == "none":
            expected = x
        elif placement == "parallel":
            expected = gates["channel"](x) * gates["spatial"](x) * x
        else:
            expected = x
            for name in placement.split("-"):
                expected = gates[name](expected) * expected
        assert list(gates) == (
            [] if placement == "none" else ["channel", "spatial"] if placement == "parallel" else placement.split("-")
        )
        torch.testing.assert_close(net(x), expected)
        results[placement] = net(x)
    assert results["none"] is x
    assert not torch.equal(results["parallel"], results["channel-spatial"])


@pytest.mark.parametrize("block", [BasicBlock(32, 32), Bottleneck(32, 8)], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_block_without_attention_stays_what_it_was(block, mode, x):
    x, block = x.abs(), block.train(mode)
    state = {name: value.clone() for name, value in block.state_dict().items()}
    expected = block(x)
    block.load_state_dict(state)
    wrapped = AttentiveBlock(block, AttentionNet(32, "none"))
    assert list(wrapped.state_dict()) == list(state)
    torch.testing.assert_close(wrapped(x), expected)


def test_attention_sits_on_the_residual_branch_before_the_skip(x):
    x = x.abs()
    closed = AttentiveBlock(BasicBlock(32, 32), torch.nn.Threshold(torch.inf, 0.0))
    torch.testing.assert_close(closed(x), x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"placement": "chanel"}, KeyError, "did you mean 'channel'"),
        ({"reduction": 0}, ValueError, "reduction is 0"),
        ({"reduction": 33}, ValueError, "32 channels"),
        ({"kernel_size": 4}, ValueError, "kernel_size is 4"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AttentionNet(32, **options)
