"""Divisions of a map into parts, and the BNNeck heads that turn each part into a feature (paper, Section III-B)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def whole(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """The map as a single part: ``(N, 1, C)``."""
    return pool(x, 1).flatten(1).unsqueeze(1)


def height(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """Equal horizontal strips, top to bottom: ``(N, parts, C)``. Where rows do not divide evenly, strips overlap."""
    _require_size("rows", x.shape[2], parts)
    return pool(x, (parts, 1)).squeeze(3).transpose(1, 2)


def width(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """Equal vertical strips, left to right: ``(N, parts, C)``. Where columns do not divide evenly, strips overlap."""
    _require_size("columns", x.shape[3], parts)
    return pool(x, (1, parts)).squeeze(2).transpose(1, 2)


def channel(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """Equal groups of neighbouring channels, each over the entire image: ``(N, parts, C / parts)``."""
    return pool(x, 1).flatten(1).unflatten(1, (parts, -1))


DIVISIONS: dict[str, Callable[[torch.Tensor, int, Callable], torch.Tensor]] = {
    "whole": whole,
    "height": height,
    "width": width,
    "channel": channel,
}


def generalised_mean(x: torch.Tensor, size: int | tuple[int, int], power: float = 3.0) -> torch.Tensor:
    """Cube root of the mean of cubes (GeM, Radenovic et al.), in float32; activations below 0 count as 0."""
    cubes = x.float().clamp(min=1e-6).pow(power)
    return functional.adaptive_avg_pool2d(cubes, size).pow(1 / power).to(x.dtype)


POOLS: dict[str, Callable] = {
    "average": functional.adaptive_avg_pool2d,
    "max": functional.adaptive_max_pool2d,
    "gem": generalised_mean,
}


def _require_size(what: str, size: int, parts: int) -> None:
    if size < parts:
        raise ValueError(
            f"the map has {size} {what}, too few for {parts} parts: use larger images (a map is 1/16 of the image "
            "with last_stride 1, 1/32 with 2) or fewer parts"
        )
