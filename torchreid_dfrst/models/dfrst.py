"""DFR-ST's appearance module (paper, Section III-B, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models.attention import AttentionNet, attend
from torchreid_dfrst.models.backbones import split_backbone
from torchreid_dfrst.models.heads import BNNeckHeads
from torchreid_dfrst.models.network import BranchNetwork

DIVIDED = ("height", "width", "channel")


class DFRST(BranchNetwork):
    """A coarse stream, and a fine stream with AttentionNet that is also divided along three dimensions.

    Branches, in the order of the embedding: ``coarse``, ``attention``, then ``height_0`` to ``height_3``, ``width_0``
    to ``width_3``, ``channel_0`` to ``channel_3``: 14 with 4 parts, 512 + 512 + 12 x 256 = 4096 wide. How the paper's
    gaps are read: ``docs/paper.md``.

    Args:
        num_classes: identities in training.
        loss: ``"softmax"`` or ``"triplet"``, see ``BranchNetwork``.
        backbone: a name, see ``split_backbone``.
        fine: with the fine stream; False leaves the coarse stream alone (Table III's xc).
        divisions: any of ``height``, ``width`` and ``channel`` (Table VIII); their order here does not matter.
        parts: parts of each division (our choice; the paper does not say).
        attention: placement, see ``AttentionNet`` (Table IX).
        reduction: of channel attention, the paper's k.
        kernel_size: of spatial attention.
        shared_stages: stages that the streams share, see ``split_backbone``.
        last_stride: stride of the last stage, see ``split_backbone``.
        stream_features: width of the features ``coarse`` and ``attention``.
        part_features: width of each part's feature.
        pool: of every head, see ``heads.POOLS``.
        normalise_branches: in the embedding every branch has length 1.

    Raises:
        KeyError: an unknown loss, backbone, division or attention.
        ValueError: a number out of range, a division twice, or options of the fine stream without it.
    """

    def __init__(
        self,
        num_classes: int,
        loss: str = "softmax",
        backbone: str = "resnet50",
        fine: bool = True,
        divisions: Sequence[str] = DIVIDED,
        parts: int = 4,
        attention: str = "channel-spatial",
        reduction: int = 16,
        kernel_size: int = 7,
        shared_stages: int = 2,
        last_stride: int = 1,
        stream_features: int = 512,
        part_features: int = 256,
        pool: str = "average",
        normalise_branches: bool = False,
    ) -> None:
        for division in divisions:
            if division not in DIVIDED:
                raise KeyError(f"unknown division {division!r}{nearest(division, DIVIDED)}")
        if len(set(divisions)) < len(divisions):
            raise ValueError(f"divisions are {list(divisions)}: each at most once")
        if not fine and (divisions or attention != "none"):
            raise ValueError(
                f"divisions {list(divisions)} and attention {attention!r} belong to the fine stream, but fine is "
                "False: pass divisions=() and attention='none' with it"
            )
        streams = ("coarse", "fine") if fine else ("coarse",)
        split = split_backbone(backbone, shared_stages, len(streams), last_stride)
        heads = {"coarse": BNNeckHeads(split.channels, stream_features, num_classes, pool=pool)}
        if fine:
            attend(split.tails[1], AttentionNet(split.channels, attention, reduction, kernel_size))
            heads["attention"] = BNNeckHeads(split.channels, stream_features, num_classes, pool=pool)
        for division in DIVIDED:
            if division in divisions:
                heads[division] = BNNeckHeads(split.channels, part_features, num_classes, division, parts, pool)
        reads = {group: "coarse" if group == "coarse" else "fine" for group in heads}
        super().__init__(split, streams, heads, reads, loss, normalise_branches)
