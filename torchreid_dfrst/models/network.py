"""What all our networks have in common: a trunk, streams, heads, and torchreid's contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models.attention import SpatialAttention
from torchreid_dfrst.models.backbones import Backbone
from torchreid_dfrst.models.heads import BNNeckHeads

LOSSES = ("softmax", "triplet")

Branches = tuple[torch.Tensor, ...]


class BranchNetwork(nn.Module):
    """The trunk of a backbone, one or more streams on top of it, and heads that read one stream each.

    In training the output is torchreid's for ``loss="softmax"``: logits; for ``"triplet"``: ``(logits, features)``.
    Each is a tuple with one ``(N, num_classes)`` or ``(N, width)`` tensor per branch, in the order of ``branches``.
    In evaluation it is the embedding ``(N, D)``: the features after the batch norm, side by side.

    Args:
        backbone: split into a trunk and one tail per stream.
        streams: names of the tails, in order.
        heads: name to heads; with the number of the part where there are several, the names of the branches.
        reads: name of each head to the stream it reads.
        loss: ``"softmax"`` or ``"triplet"``.
        normalise: in the embedding every branch has length 1; else each weighs as much as its activations are large.

    Attributes:
        start: ``file``, ``licence`` and ``sha256`` of what the backbone started from, if anything; ``earlier`` is the
            same of the network in that file.

    Raises:
        KeyError: an unknown loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        streams: tuple[str, ...],
        heads: Mapping[str, BNNeckHeads],
        reads: Mapping[str, str],
        loss: str,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise KeyError(f"unsupported loss {loss!r}{nearest(loss, LOSSES)}")
        self.backbone, self.place = backbone.name, backbone.place
        self.loss, self.reads, self.normalise = loss, dict(reads), normalise
        self.start: dict[str, Any] | None = None
        self.trunk = backbone.trunk
        self.streams = nn.ModuleDict(dict(zip(streams, backbone.tails, strict=True)))
        self.heads = nn.ModuleDict(heads)

    @property
    def groups(self) -> dict[str, BNNeckHeads]:
        """The heads by name, in the order of the embedding."""
        return cast("dict[str, BNNeckHeads]", dict(self.heads.items()))

    @property
    def branches(self) -> dict[str, slice]:
        """Where each branch lies in the embedding: ``embedding[:, branches["height_0"]]``; parts count from 0."""
        found, start = {}, 0
        for group, head in self.groups.items():
            for part in range(head.parts):
                found[group if head.parts == 1 else f"{group}_{part}"] = slice(start, start + head.features)
                start += head.features
        return found

    @property
    def feature_dim(self) -> int:
        """Width D of the embedding."""
        return sum(head.parts * head.features for head in self.groups.values())

    def feature_maps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Last map of each stream, ``(N, C, H, W)``, of images ``(N, 3, height, width)``.

        Raises:
            ValueError: the backbone does not take images of this size.
        """
        height, width = images.shape[2:]
        if min(height, width) < self.place:
            raise ValueError(
                f"images of {height} x {width} pixels are too small for backbone {self.backbone!r}, whose map has a "
                f"place for each {self.place} pixels: use larger ones"
            )
        try:
            shared = self.trunk(images)
            return {name: stream(shared) for name, stream in self.streams.items()}
        except (AssertionError, ValueError, RuntimeError) as error:
            # kinds of RuntimeError, and words of it without a size, are of memory, devices and other processes
            if isinstance(error, RuntimeError) and not (
                type(error) is RuntimeError and re.search("size|shape", str(error))
            ):
                raise
            raise ValueError(
                f"backbone {self.backbone!r} does not take images of {height} x {width} pixels "
                f"({' '.join(str(error).split())[:200]}): use another size, such as that of its weights, or another "
                "backbone"
            ) from error

    def forward(
        self, images: torch.Tensor, return_featuremaps: bool = False
    ) -> torch.Tensor | Branches | tuple[Branches, Branches]:
        """Branches in training, the embedding in evaluation, of images ``(N, 3, height, width)``.

        With ``return_featuremaps`` the last stream's map ``(N, C, H, W)``, for torchreid's activation-map tool.
        """
        maps = self.feature_maps(images)
        if return_featuremaps:
            return maps[list(maps)[-1]]
        features: list[torch.Tensor] = []
        necks: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        for group, head in self.groups.items():
            feature, neck = head(maps[self.reads[group]])
            necks.append((functional.normalize(neck, dim=2) if self.normalise else neck).flatten(1))
            if self.training:
                features.extend(feature.unbind(1))
                logits.extend(head.logits(neck).unbind(1))
        if not self.training:
            return torch.cat(necks, dim=1)
        return tuple(logits) if self.loss == "softmax" else (tuple(logits), tuple(features))

    @torch.no_grad()
    def spatial_gate(self, images: torch.Tensor) -> torch.Tensor | None:
        """Where spatial attention looks (Fig. 7): gate ``(N, H, W)`` in (0, 1); None without such attention."""
        if self.training:
            raise ValueError("the gate of a network in training mode: call model.eval() first")
        gates: list[torch.Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _, __, gate: gates.append(gate.squeeze(1)))
            for module in self.modules()
            if isinstance(module, SpatialAttention)
        ]
        try:
            self.feature_maps(images)
        finally:
            for hook in hooks:
                hook.remove()
        return gates[0] if gates else None
