"""Backbones of timm, an optional extra: any model that gives maps, split where DFR-ST splits a ResNet."""

from __future__ import annotations

import importlib.util
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

INSTALL = "pip install 'torchreid-dfrst[timm]'"
OTHERS = "choose another, such as resnet50, convnext_tiny, regnety_016, mobilenetv3_large_100 or vit_small_patch16_224"


class TokenTrunk(nn.Module):
    """The first blocks of a vision transformer; from timm's model what lies behind them has been taken away."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The grid ``(N, C, H, W)``, the tokens before it, if any, and the rotary embedding of its places, if any."""
        whole, prefix = self.whole, self.whole.num_prefix_tokens > 0
        (last,) = whole.forward_intermediates(
            images, [len(whole.blocks) - 1], return_prefix_tokens=prefix, output_fmt="NCHW", intermediates_only=True
        )
        grid, tokens = last if prefix else (last, None)
        rope = getattr(whole, "rope", None)
        return grid, tokens, None if rope is None else rope.get_embed(shape=tuple(grid.shape[2:]))


class TokenTail(nn.Module):
    """The last blocks of a vision transformer, by name, and its norm; gives a map as a convolutional network does."""

    def __init__(self, blocks: dict[str, nn.Module], norm: tuple[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in (*blocks.items(), norm, ("attention", nn.Identity())):
            self.add_module(name, layer)
        self.order, self.norm_name = list(blocks), norm[0]

    def forward(self, shared: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]) -> torch.Tensor:
        """The map ``(N, C, H, W)`` of what ``TokenTrunk`` gives."""
        grid, tokens, rope = shared
        x = grid.flatten(2).transpose(1, 2)  # (N, H W, C)
        x = x if tokens is None else torch.cat([tokens, x], dim=1)
        for name in self.order:
            x = self.get_submodule(name)(x, **({} if rope is None else {"rope": rope}))
        x = self.get_submodule(self.norm_name)(x)[:, 0 if tokens is None else tokens.shape[1] :]
        return self.get_submodule("attention")(x.transpose(1, 2).unflatten(2, grid.shape[2:]))


class ChannelsFirst(nn.Module):
    """``(N, H, W, C)``, as Swin gives it, to ``(N, C, H, W)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same map."""
        return x.permute(0, 3, 1, 2).contiguous()


def installed() -> bool:
    """Is timm there?"""
    return importlib.util.find_spec("timm") is not None


def has(name: str) -> bool:
    """Has timm, which must be there, a model of this name, which may end in a tag of its weights?"""
    import timm

    # of its old names timm knows the new one, and nothing of their weights
    return name.partition(".")[0] in timm.list_models() and (
        "." not in name or name in timm.list_pretrained(f"{name}*")
    )


def names(like: str) -> list[str]:
    """Names of timm's models, for messages; with a tag where ``like`` has one."""
    import timm

    return list(timm.list_pretrained() if "." in like else timm.list_models())


def about(name: str) -> Any:
    """What timm says of a model's weights, by name: ``input_size``, ``mean``, ``std``, ``license``, ``hf_hub_id``."""
    import timm

    return cast("Any", timm.models.get_pretrained_cfg(name)).to_dict()


def whole_state(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a whole model under the names of today's timm, which older files may not have."""
    import timm

    source = {"state_dict": dict(state), "custom_load": False}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source)
    return cast("dict[str, torch.Tensor]", model.state_dict())


def build(name: str, shared_stages: int, last_stride: int) -> tuple[nn.Module, nn.Module, int, int]:
    """Trunk, tail, channels and place, see ``backbones.split_backbone``.

    Maps of the last stage are kept at 1/16 by timm's ``output_stride``, that is by dilation, where the model has it.
    """
    import timm

    whole = _create(timm, name, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    if whole is not None:
        return _tokens(name, whole, shared_stages, last_stride)
    size = {"output_stride": 16} if last_stride == 1 else {}
    tried = (_create(timm, name, features_only=True, **size, **more) for more in ({"strict_img_size": False}, {}))
    network = next((made for made in tried if made is not None), None)
    if network is None and size:
        build(name, shared_stages, 2)  # says what is wrong with one that has no maps at all
        raise ValueError(f"backbone {name!r} has maps of 1/32 of the image and no others: give last_stride 2 with it")
    if hasattr(getattr(network, "patch_embed", None), "dynamic_img_pad"):
        cast("Any", network).patch_embed.dynamic_img_pad = True  # Swin takes images of any size then
    info: Any = getattr(network, "feature_info", None)
    children = [
        (f"{name}_{number}", block) if name == "blocks" else (name, block)
        for name, child in (network.named_children() if network is not None else [])
        for number, block in (child.named_children() if name == "blocks" else [("", child)])
    ]
    places = {layer: number for number, (layer, _) in enumerate(children)}
    ends = [stage.replace(".", "_") for stage in info.module_name()[-4:]] if info else []
    in_a_row = len(ends) == 4 and all(end in places for end in ends) and info.reduction()[-4:-1] == [4, 8, 16]
    if network is None or not in_a_row:
        raise ValueError(
            f"backbone {name!r} gives no maps of 1/4, 1/8 and 1/16 in a row of layers, so streams cannot share its "
            f"beginning: {OTHERS}"
        )
    if left := _left_out(timm, name, network):
        raise ValueError(f"backbone {name!r} goes on with {left} after timm's last map, and would lose it: {OTHERS}")
    place = places[ends[shared_stages - 1]] + 1
    tail = children[place:]
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):
        tail = [*tail, ("channels_first", ChannelsFirst())]
    trunk, end = nn.Sequential(OrderedDict(children[:place])), nn.Sequential(OrderedDict(tail))
    return trunk, end, info.channels()[-1], info.reduction()[-1]


def _left_out(timm: Any, name: str, network: nn.Module) -> str:
    """The first block of a whole model that its maps do without, of a row of blocks that they begin; or nothing."""
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=0)
    rows = {re.sub(r"_\d+$", "", layer) for layer, _ in network.named_children()}
    own = {tensor.replace("_", ".") for tensor in network.state_dict()}
    lost = (t.split(".") for t in whole.state_dict() if t.replace("_", ".") not in own)
    return next((".".join(part[:2]) for part in lost if part[0] in rows), "")


def _create(timm: Any, name: str, **options: Any) -> Any:
    """The model without weights, or None where it does not take the options."""
    try:
        return timm.create_model(name, pretrained=False, **options)
    except (TypeError, RuntimeError, AssertionError, NotImplementedError):
        return None


def _tokens(name: str, whole: Any, shared_stages: int, last_stride: int) -> tuple[nn.Module, nn.Module, int, int]:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(whole, (VisionTransformer, Eva)) or getattr(whole, "rope_mixed", False):
        raise ValueError(
            f"backbone {name!r} is a transformer of another family than ViT and EVA, which cannot be split: {OTHERS}"
        )
    if last_stride != 1:
        raise ValueError(
            f"backbone {name!r} has one place on its map per patch, whatever the stride: give last_stride 1"
        )
    depth, norm = len(whole.blocks), "fc_norm" if isinstance(whole.norm, nn.Identity) else "norm"
    shared = min(depth * shared_stages // 3, depth - 1)
    tail = TokenTail(
        {f"blocks_{number}": whole.blocks[number] for number in range(shared, depth)}, (norm, getattr(whole, norm))
    )
    whole.blocks = whole.blocks[:shared]
    for behind in ("norm", "fc_norm", "head", "head_dist", "attn_pool"):
        if getattr(whole, behind, None) is not None:
            setattr(whole, behind, nn.Identity())
    return TokenTrunk(whole), tail, whole.num_features, cast("int", whole.patch_embed.feat_ratio())
