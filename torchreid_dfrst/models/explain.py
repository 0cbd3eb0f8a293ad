"""Why two images are alike: their similarity as a sum over branches, and over the places of either image."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchreid_dfrst.models.heads import DIVISIONS, POOLS, BNNeckHeads
from torchreid_dfrst.models.network import BranchNetwork

EXACT = ("average", "max")
"""Pooling of which a pooled value is a sum over places: all of a part, or the one that won."""


class Explanation(NamedTuple):
    """The cosine similarity of two embeddings, taken apart.

    Args:
        similarity: in [-1, 1].
        branches: name of each branch to its part of the similarity; they add up to it.
        first: name of each branch to ``(H, W)``, what each place of the first image's map brings; they add up to it.
        second: the same for the second image.
    """

    similarity: float
    branches: dict[str, float]
    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]


def explain(model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor) -> Explanation:
    """Why a network finds two images alike, each ``(3, height, width)`` as the test transform gives it, exactly.

    With average pooling a feature is an affine function of the last map, and with the other image and both lengths held
    fixed so is the similarity. With maximum pooling the place that won brings all of a channel. What no place brings
    (the batch norm's shift) is shared by the places as the pooling shares.

    Raises:
        ValueError: not one of our networks, or one whose pooling is no sum over places.
    """
    if not isinstance(model, BranchNetwork):
        raise ValueError(f"{type(model).__name__} is not one of our networks: its similarity cannot be taken apart")
    pools = {head.pool for head in model.groups.values()}
    if not pools <= set(EXACT):
        raise ValueError(
            f"pooling {', '.join(sorted(pools))} is no sum over places: {' or '.join(EXACT)} can be explained"
        )
    mode = model.training
    model.eval()
    try:
        images = torch.stack([first, second]).to(next(model.parameters()).device)
        with torch.no_grad():
            maps = {name: values.detach() for name, values in model.feature_maps(images).items()}
        return _explain_maps(model, maps)
    finally:
        model.train(mode)


def _explain_maps(model: BranchNetwork, maps: dict[str, torch.Tensor]) -> Explanation:
    necks, scale = {}, {}
    for group, head in model.groups.items():
        necks[group] = head(maps[model.reads[group]].requires_grad_(True))[1].double()  # (2, parts, features)
        length = necks[group].detach().norm(dim=2, keepdim=True)
        scale[group] = 1 / length.clamp_min(1e-12) if model.normalise else torch.ones_like(length)
    weighed = {group: neck.detach() * scale[group] for group, neck in necks.items()}
    both = torch.cat([neck.flatten(1) for neck in weighed.values()], dim=1).norm(dim=1).prod()
    branches: dict[str, float] = {}
    sides: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    names = iter(model.branches)
    for group, head in model.groups.items():
        for part in range(head.parts):
            name = next(names)
            value = (weighed[group][0, part] @ weighed[group][1, part]) / both
            branches[name] = float(value)
            for side in (0, 1):
                other = weighed[group][1 - side, part] * scale[group][side, part] / both
                seen = maps[model.reads[group]]
                sides[side][name] = _places(head, seen, necks[group], side, part, other, value)
    return Explanation(sum(branches.values()), branches, *sides)


def _places(
    head: BNNeckHeads,
    seen: torch.Tensor,
    neck: torch.Tensor,
    side: int,
    part: int,
    other: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """``(H, W)`` what each place of one image brings to ``value = neck[side, part] @ other``."""
    (slope,) = torch.autograd.grad(neck[side, part] @ other, seen, retain_graph=True)
    brought = (slope[side].double() * seen[side].detach().double()).sum(0)
    pooled = DIVISIONS[head.division](seen, head.parts, POOLS[head.pool])
    (share,) = torch.autograd.grad(pooled[side, part].sum(), seen)
    weight = share[side].double().sum(0)
    return (brought + (value - brought.sum()) * weight / weight.sum()).detach()
