"""Networks that DFR-ST is measured against, in the same harness: PRN, PCB, the strong baseline and the plain one."""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_dfrst.models.backbones import split_backbone
from torchreid_dfrst.models.heads import BNNeckHeads
from torchreid_dfrst.models.network import BranchNetwork


class PartNetwork(BranchNetwork):
    """One stream whose map is divided; per part pooling, 1x1 convolution, batch norm and classifier.

    ``prn`` is the "single height-channel branch" of PRN [20], which the paper re-implemented (Fig. 8, Table VII):
    global *max* pooling, branches ``height_0`` to ``height_3`` and ``channel_0`` to ``channel_3``, 256 wide each.
    ``pcb`` is PCB (Sun et al., ECCV 2018) with average pooling of ``height_0`` to ``height_3`` alone. Four parts and
    where the triplet loss reads (before the batch norm, as in our other networks) are our reading of both.
    Arguments as of ``DFRST``; ``divisions`` are in the order of the embedding.
    """

    def __init__(
        self,
        num_classes: int,
        loss: str = "softmax",
        backbone: str = "resnet50",
        divisions: Sequence[str] = ("height", "channel"),
        parts: int = 4,
        part_features: int = 256,
        pool: str = "max",
        last_stride: int = 1,
    ) -> None:
        if not divisions:
            raise ValueError(
                "divisions is empty: the network is made of parts, give at least one of height, width, channel"
            )
        split = split_backbone(backbone, 2, streams=1, last_stride=last_stride)
        heads = {
            division: BNNeckHeads(split.channels, part_features, num_classes, division, parts, pool)
            for division in divisions
        }
        super().__init__(split, ("parts",), heads, dict.fromkeys(heads, "parts"), loss)


class GlobalNetwork(BranchNetwork):
    """A backbone with average pooling and one classifier; with BNNeck it is the strong baseline of Luo et al. [44].

    The one branch is called ``whole`` and is as wide as the map. Arguments as of ``DFRST``; ``neck`` is the batch norm
    between feature and classifier.
    """

    def __init__(
        self,
        num_classes: int,
        loss: str = "softmax",
        backbone: str = "resnet50",
        neck: bool = True,
        last_stride: int = 1,
    ) -> None:
        split = split_backbone(backbone, 2, streams=1, last_stride=last_stride)
        heads = {"whole": BNNeckHeads(split.channels, None, num_classes, neck=neck)}
        super().__init__(split, ("whole",), heads, {"whole": "whole"}, loss)
