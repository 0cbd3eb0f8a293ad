"""The loss of DFR-ST (paper, Eq. 1 to 3), and metric losses that may take the place of its triplet loss, by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from torchreid_dfrst.checks import within
from torchreid_dfrst.messages import nearest

REDUCTIONS = ("mean", "sum")


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, epsilon: float = 0.1) -> torch.Tensor:
    """Cross entropy with 1 - epsilon on the true class and epsilon / (K - 1) on each other class (Eq. 2).

    PyTorch's ``label_smoothing`` with ``epsilon * K / (K - 1)`` is the same; torchreid's own smooths by epsilon / K.
    The printed softmax sums over the batch; ours is the ordinary one, over the K classes.

    Args:
        logits: ``(N, K)``, K 2 or more; computed in float32 at least.
        labels: ``(N,)`` int64 in ``[0, K)``.
        epsilon: in ``[0, 1]``.

    Returns:
        The mean over the batch, ``>= 0``; 0 with a gradient for an empty batch.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"cross entropy over {classes} class: training needs two identities or more")
    scores = torch.log_softmax(_at_least_float32(logits), dim=1)
    true = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = scores.sum(1) - true
    return -((1 - epsilon) * true + epsilon / (classes - 1) * others).sum() / max(len(labels), 1)


def batch_hard_triplet(
    features: torch.Tensor, labels: torch.Tensor, margin: float = 1.2, reduction: str = "mean"
) -> torch.Tensor:
    """Hinge of *squared* Euclidean distances to the farthest positive and the nearest negative (Eq. 3).

    Args:
        features: ``(N, D)``, not normalised; computed in float32 at least, also under autocast.
        labels: ``(N,)`` identities.
        margin: of the squared distances, ``>= 0``.
        reduction: ``"mean"`` over the anchors (our reading: lambda then does not depend on the batch size) or
            ``"sum"`` over them, as printed.

    Returns:
        ``>= 0``; 0 with a gradient of 0 where there are no anchors: rows with another of their identity and of others.
    """
    _check_reduction(reduction)
    with torch.autocast(features.device.type, enabled=False):
        features = _at_least_float32(features)
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if len(labels) == 0:
            return (features * 0).sum()
        # every row is computed and those that are no anchors count 0: selecting rows would wait for the GPU
        anchors = positive.any(1) & (~same).any(1)
        with torch.no_grad():
            # this form cancels: it finds the hardest pairs, whose distances are then taken from the features themselves
            norms = features.square().sum(1)
            distances = norms.unsqueeze(0) + norms.unsqueeze(1) - 2 * features @ features.T
            farthest = distances.masked_fill(~positive, -torch.inf).argmax(1)
            nearest = distances.masked_fill(same, torch.inf).argmin(1)
        to_positive = (features - features[farthest]).square().sum(1)
        to_negative = (features - features[nearest]).square().sum(1)
        hinge = torch.relu(to_positive - to_negative + margin).masked_fill(~anchors, 0).sum()
    return hinge / anchors.sum().clamp(min=1) if reduction == "mean" else hinge


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "batch_hard": batch_hard_triplet,
}
"""Metric losses by name, called as ``loss(features, labels, margin=, reduction=)``; the first is the paper's."""


class LossParts(NamedTuple):
    """The loss of one batch and what it is made of."""

    total: torch.Tensor
    cross_entropy: torch.Tensor
    triplet: torch.Tensor


class DFRSTLoss(nn.Module):
    """``cross entropy + triplet_weight * metric loss`` (Eq. 1), each the mean over the branches.

    The paper does not say how several heads share one loss; the mean is also what torchreid's engines take.

    Args:
        triplet_weight: the paper's lambda, ``>= 0``.
        margin: of the metric loss, see ``batch_hard_triplet``.
        epsilon: see ``smoothed_cross_entropy``, in ``[0, 1]``.
        reduction: of the metric loss, see ``batch_hard_triplet``.
        cross_entropy_branches: weight of each branch in the mean, ``>= 0`` and not all 0; None weighs them the same.
        triplet_branches: likewise; ``[1, 1, 0, ..., 0]`` leaves the 12 parts of ``dfrst`` to the cross entropy.
        metric: one of ``LOSSES``.

    Raises:
        KeyError: an unknown ``metric``; the message has the nearest one.
        ValueError: a number out of its range or an unknown reduction.
    """

    def __init__(
        self,
        triplet_weight: float = 0.4,
        margin: float = 1.2,
        epsilon: float = 0.1,
        reduction: str = "mean",
        cross_entropy_branches: Sequence[float] | None = None,
        triplet_branches: Sequence[float] | None = None,
        metric: str = "batch_hard",
    ) -> None:
        super().__init__()
        within("triplet_weight", triplet_weight)
        within("margin", margin)
        within("epsilon", epsilon, highest=1)
        _check_reduction(reduction)
        if metric not in LOSSES:
            raise KeyError(f"unknown loss.metric {metric!r}{nearest(metric, LOSSES)}")
        self.triplet_weight, self.epsilon = triplet_weight, epsilon
        self.metric = functools.partial(LOSSES[metric], margin=margin, reduction=reduction)
        self.cross_entropy_branches = _checked_weights("cross_entropy_branches", cross_entropy_branches)
        self.triplet_branches = _checked_weights("triplet_branches", triplet_branches)

    def forward(
        self,
        logits: Sequence[torch.Tensor],
        features: Sequence[torch.Tensor],
        labels: torch.Tensor,
        feature_labels: torch.Tensor | None = None,
    ) -> LossParts:
        """Loss of the branches.

        Args:
            logits: one ``(N, K)`` per branch.
            features: one ``(N, D)`` per branch, before the batch norm; their widths may differ.
            labels: ``(N,)`` int64 in ``[0, K)``.
            feature_labels: labels of the rows of ``features`` where those are not the rows of ``logits``: with several
                processes, triplets are mined among the images of all of them.

        Raises:
            ValueError: a label outside of ``[0, K)`` (on a GPU, where looking would wait for it, CUDA's own error), or
                other than one weight for each branch.
        """
        classes = logits[0].shape[1]
        if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, the network has {classes} classes: "
                "relabel the training identities 0, 1, 2, ..., over all sources together, and build the network with "
                "their number"
            )
        mined = labels if feature_labels is None else feature_labels
        entropies = [smoothed_cross_entropy(x, labels, self.epsilon) for x in logits]
        cross_entropy = _mean_over_branches(entropies, self.cross_entropy_branches, "cross_entropy_branches")
        triplet = _mean_over_branches(
            [self.metric(x, mined) for x in features], self.triplet_branches, "triplet_branches"
        )
        return LossParts(cross_entropy + self.triplet_weight * triplet, cross_entropy, triplet)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: one of {', '.join(REDUCTIONS)}")


def _checked_weights(what: str, weights: Sequence[float] | None) -> tuple[float, ...] | None:
    if weights is None:
        return None
    for weight in weights:
        within(what, weight, below=math.inf)
    if not sum(weights):
        raise ValueError(f"{what} is {list(weights)!r}: at least one branch needs a weight above 0")
    return tuple(weights)


def _mean_over_branches(losses: Sequence[torch.Tensor], weights: tuple[float, ...] | None, what: str) -> torch.Tensor:
    stacked = torch.stack(list(losses))
    if weights is None:
        return stacked.mean()
    if len(weights) != len(losses):
        raise ValueError(
            f"{what} has {len(weights)} weights, the network {len(losses)} branches: give one weight for each, in the "
            "order of the network's `branches`"
        )
    # a branch of weight 0 stays in the graph: with several processes every parameter must have a gradient
    return (stacked * stacked.new_tensor(weights)).sum() / sum(weights)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
