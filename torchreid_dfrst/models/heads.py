"""Heads: a map is divided into parts, and each part becomes a feature and class scores (paper, Section III-B)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from torchreid_dfrst.messages import nearest


def whole(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """The map as a single part: ``(N, 1, C)``."""
    return pool(x, 1).flatten(1).unsqueeze(1)


def height(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """Equal horizontal strips, top to bottom: ``(N, parts, C)``. Where rows do not divide evenly, strips overlap."""
    return _strips(x, 2, parts, pool)


def width(x: torch.Tensor, parts: int, pool: Callable) -> torch.Tensor:
    """Equal vertical strips, left to right: ``(N, parts, C)``. Where columns do not divide evenly, strips overlap."""
    return _strips(x, 3, parts, pool)


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


def _strips(x: torch.Tensor, dim: int, parts: int, pool: Callable) -> torch.Tensor:
    size = x.shape[dim]
    if size < parts:
        raise ValueError(
            f"the map has {size} {'rows' if dim == 2 else 'columns'}, too few for {parts} parts: use larger images "
            "(each stands for 16 pixels with last_stride 1, 32 with 2, or for a transformer's patch) or fewer parts"
        )
    if size % parts == 0:
        return pool(x, (parts, 1) if dim == 2 else (1, parts)).squeeze(5 - dim).transpose(1, 2)
    # as adaptive pooling cuts them, which PyTorch's old ONNX exporter refuses; rounded up without negative numbers,
    # whose quotient it rounds the other way
    edges = [(part * size // parts, ((part + 1) * size + parts - 1) // parts) for part in range(parts)]
    return torch.stack([pool(x.narrow(dim, start, end - start), 1).flatten(1) for start, end in edges], dim=1)


class PartConvolution(nn.Conv1d):
    """One 1x1 convolution per part, without bias, from ``incoming`` to ``outgoing`` channels, as a matrix product.

    On a CPU, PyTorch's grouped convolution took 1.1 to 2 times as long in float32 and 1.1 to 10 times in bfloat16.
    """

    def __init__(self, parts: int, incoming: int, outgoing: int) -> None:
        super().__init__(parts * incoming, parts * outgoing, kernel_size=1, groups=parts, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, parts, incoming)`` to ``(N, parts, outgoing)``."""
        return torch.einsum("npi,poi->npo", x, self.weight.view(self.groups, -1, x.shape[2]))


class BNNeckHeads(nn.Module):
    """One head per part: pooling, 1x1 convolution, BNNeck and classifier, all parts at once.

    The feature before the batch norm is for the triplet loss, the one after it for the classifier and for retrieval
    (BNNeck, Luo et al. [44]). BNNeck freezes the batch norm's bias at 0: here it has none. The 1x1 convolution has no
    bias either; the batch norm and the differences of Eq. 3 would cancel it. They start as in the code of [44]:
    Kaiming for the convolution, a standard deviation of 0.001 for the classifier.

    Args:
        channels: channels of the incoming map.
        features: width of each part's feature; None leaves out the 1x1 convolution.
        num_classes: identities in training.
        division: one of ``DIVISIONS``.
        parts: number of parts; 1 for ``whole``.
        pool: one of ``POOLS``.
        neck: False leaves out the batch norm; both features are then the same.

    Raises:
        KeyError: unknown division or pooling.
        ValueError: ``parts`` is below 1 or does not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        features: int | None,
        num_classes: int,
        division: str = "whole",
        parts: int = 1,
        pool: str = "average",
        neck: bool = True,
    ) -> None:
        super().__init__()
        for what, name, known in (("division", division, DIVISIONS), ("pooling", pool, POOLS)):
            if name not in known:
                raise KeyError(f"unknown {what} {name!r}{nearest(name, known)}")
        if parts < 1 or (division == "channel" and channels % parts):
            raise ValueError(f"parts is {parts!r}: 1 or more, and a divisor of the map's {channels} channels")
        incoming = channels // parts if division == "channel" else channels
        self.division, self.parts, self.pool = division, parts, pool
        self.features = incoming if features is None else features
        self.reduce = nn.Identity() if features is None else PartConvolution(parts, incoming, features)
        self.neck = nn.BatchNorm1d(parts * self.features) if neck else nn.Identity()
        if neck:
            self.neck.register_parameter("bias", None)
        self.classifier = PartConvolution(parts, self.features, num_classes)
        if isinstance(self.reduce, PartConvolution):
            nn.init.kaiming_normal_(self.reduce.weight)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of each part before and after the batch norm: two tensors ``(N, parts, features)``.

        Raises:
            ValueError: the map has fewer rows or columns than parts.
        """
        pooled = DIVISIONS[self.division](x, self.parts, POOLS[self.pool])  # (N, P, C)
        feature = self.reduce(pooled)  # (N, P, D)
        return feature, self.neck(feature.flatten(1)).unflatten(1, (self.parts, -1))

    def logits(self, neck: torch.Tensor) -> torch.Tensor:
        """Class scores ``(N, parts, num_classes)`` of features after the batch norm, ``(N, parts, features)``."""
        return self.classifier(neck)
