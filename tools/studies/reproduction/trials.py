"""Changes to DFR-ST that are no options of the package, one at a time, on training vehicles that are held out.

    python -m tools.studies.reproduction.trials --config-file configs/reproduce/city_a_imagenet.yaml --root DIR

They stand beside the rows of table ``changes`` and are trained, found again and scored as those are. What helps becomes
an option; the others stay here, for whoever thinks of them again.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tools.studies.reproduction import Harness, Preset, tables
from tools.studies.reproduction.__main__ import main
from tools.studies.reproduction.preset import merge
from torchreid_dfrst import losses
from torchreid_dfrst.config import Config
from torchreid_dfrst.data import manager, sampling
from torchreid_dfrst.models import DFRST, zoo
from torchreid_dfrst.models.heads import PartConvolution

STREAM_FEATURES = 512  # the width of a whole-image branch; a part has 256
WHOLE = 2  # whole-image branches, which come first
BRANCHES = 14


@dataclass(frozen=True)
class Trial:
    """One change.

    Args:
        sections: of training.
        network: changes the network that was built.
        around: what is different while it trains.
    """

    sections: Config = field(default_factory=dict)
    network: Callable[[DFRST], None] | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext


class Averaged(DFRST):
    """In evaluation its weights are a moving average of those of all steps (decay 0.99)."""

    mean: dict[str, torch.Tensor] | None = None
    last: dict[str, torch.Tensor] | None = None

    def forward(self, images: torch.Tensor, return_featuremaps: bool = False) -> Any:
        """As ``DFRST``; counts what the last step made."""
        if self.training:
            now = {name: value.detach() for name, value in super().state_dict().items() if value.is_floating_point()}
            if self.mean is None:
                self.mean = {name: value.clone() for name, value in now.items()}
            for name, value in now.items():
                self.mean[name].lerp_(value, 0.01)
        return super().forward(images, return_featuremaps)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """With the average in the weights' place, which is what a run leaves behind."""
        return {**super().state_dict(*args, **options), **(self.mean or {})}

    def train(self, mode: bool = True) -> Averaged:
        """Put the average in the weights' place for evaluation, and the weights back for training."""
        if self.training and not mode and self.mean is not None:
            state = super().state_dict()
            self.last = {name: state[name].clone() for name in self.mean}
            self.load_state_dict(self.mean, strict=False)
        elif mode and self.last is not None:
            self.load_state_dict(self.last, strict=False)
            self.last = None
        return super().train(mode)


class SharedClassifier(PartConvolution):
    """One classifier for all parts of a division."""

    def __init__(self, incoming: int, classes: int) -> None:
        super().__init__(1, incoming, classes)
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, parts, incoming)`` to ``(N, parts, classes)``."""
        return functional.linear(x, self.weight.squeeze(2))


def average(model: DFRST) -> None:
    """Evaluate a moving average of the weights."""
    model.__class__ = Averaged


def share_classifiers(model: DFRST) -> None:
    """One classifier for the parts of each division."""
    for head in model.groups.values():
        if head.parts > 1:
            head.classifier = SharedClassifier(head.features, head.classifier.weight.shape[0] // head.parts)


def drop_features(model: DFRST) -> None:
    """Three tenths of each branch's feature are dropped before its classifier."""
    for head in model.groups.values():
        head.neck.register_forward_hook(lambda neck, _, out: functional.dropout(out, 0.3, neck.training))


def circle_on_streams(
    features: torch.Tensor, labels: torch.Tensor, margin: float = 1.2, reduction: str = "mean"
) -> torch.Tensor:
    """Circle loss (Sun et al., CVPR 2020; m 0.25, gamma 64) on the whole-image branches, triplets on the parts."""
    if features.shape[1] != STREAM_FEATURES:
        return losses.batch_hard_triplet(features, labels, margin, reduction)
    cosine = functional.normalize(features.float()) @ functional.normalize(features.float()).T
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    m, gamma = 0.25, 64
    to_positive = -gamma * (1 + m - cosine.detach()).relu() * (cosine - 1 + m)
    to_negative = gamma * (cosine.detach() + m).relu() * (cosine - m)
    sums = to_positive.masked_fill(~positive, -torch.inf).logsumexp(1) + to_negative.masked_fill(
        same, -torch.inf
    ).logsumexp(1)
    return functional.softplus(sums).mean()


def diverse_deck(images: np.ndarray, instances: int, rng: np.random.Generator, cameras: np.ndarray) -> list[np.ndarray]:
    """As ``sampling._deck``, but a hand takes one image of each camera before a second of any."""
    order = rng.permutation(images)
    turns = np.zeros(len(order))
    for camera in np.unique(cameras[order]):
        mine = cameras[order] == camera
        turns[mine] = np.arange(mine.sum()) * (len(order) / mine.sum()) + rng.random()
    order = order[np.argsort(turns, kind="stable")]
    short = -len(order) % instances
    order = np.concatenate([order, rng.choice(order, short)]) if short else order
    hands = order.reshape(-1, instances)
    return list(hands[rng.permutation(len(hands))])


@contextmanager
def diverse_cameras() -> Iterator[None]:
    """Batches whose images of one vehicle are of as many cameras as can be."""
    hold_out, known = manager._hold_out, {}

    def held(*args: Any) -> Any:
        kept, out = hold_out(*args)
        known["cameras"] = np.array([camera for _, _, camera, _ in kept])
        return kept, out

    deck = lambda images, instances, rng: diverse_deck(images, instances, rng, known["cameras"])  # noqa: E731
    with mock.patch.object(manager, "_hold_out", held), mock.patch.object(sampling, "_deck", deck):
        yield


@contextmanager
def smoothed_streams() -> Iterator[None]:
    """Labels are smoothed for the whole-image branches, not for the parts."""
    usual, places = losses.smoothed_cross_entropy, itertools.cycle(range(BRANCHES))

    def entropy(logits: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
        return usual(logits, labels, epsilon if next(places) < WHOLE else 0.0)

    with mock.patch.object(losses, "smoothed_cross_entropy", entropy):
        yield


TRIALS = {
    "moving average of weights": Trial(network=average),
    "circle loss on the two whole-image branches": Trial({"loss": {"metric": "circle_on_streams"}}),
    "one classifier for the parts of a division": Trial(network=share_classifiers),
    "three tenths of each branch's feature dropped": Trial(network=drop_features),
    "images of a vehicle from many cameras": Trial(around=diverse_cameras),
    "labels of parts not smoothed": Trial(around=smoothed_streams),
    "last stride 2": Trial({"model": {"last_stride": 2}}),
    "margin 0.3": Trial({"loss": {"margin": 0.3}}),
    "no triplet loss": Trial({"loss": {"triplet_weight": 0.0}}),
}
NAMES = {f"dfrst_trial_{place}": label for place, label in enumerate(TRIALS)}


def rows(preset: Preset) -> list[tables.Row]:
    """DFR-ST as it is, and each trial; their networks become known, and the loss."""
    usual = tables.Row("dfrst", preset.network("dfrst"), preset.selection, held_out=True)
    losses.LOSSES["circle_on_streams"] = circle_on_streams
    for name, label in NAMES.items():
        zoo.NETWORKS[name] = (_changed(TRIALS[label].network), zoo.NETWORKS[usual.network][1])
        zoo.FACTORIES[name] = zoo._factory(name)
    return [usual] + [
        tables.Row(label, name, merge(preset.selection, TRIALS[label].sections), held_out=True)
        for name, label in NAMES.items()
    ]


def _changed(change: Callable[[DFRST], None] | None) -> Callable[..., DFRST]:
    @functools.wraps(DFRST, updated=())
    def network(*args: Any, **options: Any) -> DFRST:
        model = DFRST(*args, **options)
        if change is not None:
            change(model)
        return model

    return network


def train(harness: Harness, network: str, change: Config | None = None, seed: int = 0) -> Path:
    """``Harness.train`` with what a trial changes around it."""
    with TRIALS[NAMES[network]].around() if network in NAMES else nullcontext():
        return TRAIN(harness, network, change, seed)


TRAIN = Harness.train


def run() -> int | None:
    """The command of ``tools.studies.reproduction`` with the trials as its table ``changes``."""
    with (
        mock.patch.dict(tables.TABLES, {"changes": replace(tables.TABLES["changes"], rows=rows)}),
        mock.patch.object(Harness, "train", train),
        mock.patch.object(sys, "argv", [sys.argv[0], "changes", *sys.argv[1:]]),
    ):
        return main()


if __name__ == "__main__":
    run()
