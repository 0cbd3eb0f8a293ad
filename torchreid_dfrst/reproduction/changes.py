"""What might help DFR-ST, and what did: the rows of table ``changes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchreid_dfrst.config import Config
from torchreid_dfrst.reproduction.preset import merge

STREAMS, PARTS = [1, 1], 12
AS_DIVISION = [4, 4] + [1] * PARTS  # of 4 parts

# one change each; sections of training on top of the paper's setting
CHANGES: dict[str, Mapping[str, Any]] = {
    "branches of length 1": {"model": {"normalise_branches": True}},
    "GeM pooling": {"model": {"pool": "gem"}},
    "max pooling": {"model": {"pool": "max"}},
    "2 parts per division": {"model": {"parts": 2}},
    "conv4 shared by the streams": {"model": {"shared_stages": 3}},
    "body at a third of the rate of new layers": {
        "optim": {"staged_lr": True, "new_layers": ["heads"], "base_lr_mult": 0.33},
    },
    "new layers at 1.05e-3, body at 3.5e-4": {
        "optim": {"staged_lr": True, "new_layers": ["heads"], "lr": 1.05e-3, "base_lr_mult": 1 / 3},
    },
    "all layers at 7e-4": {"optim": {"lr": 7e-4}},
    "lambda 1": {"loss": {"triplet_weight": 1.0}},
    "warm-up of 4 epochs": {"scheduler": {"warmup_epoch": 4}},
    "height and channel divided, width not": {"model": {"divisions": ["height", "channel"]}},
    "triplet loss on the two whole-image branches alone": {"loss": {"triplet_branches": STREAMS + [0] * PARTS}},
    "losses of the two streams weigh as much as a division's": {
        "loss": {"cross_entropy_branches": AS_DIVISION, "triplet_branches": AS_DIVISION},
    },
}
# those that helped, in the order in which they are added to one another; ``models.factories.PLUS`` has the networks'
# options among them, and the rows of ``dfrst_plus`` are trained with the rest
HELPED: tuple[str, ...] = ("all layers at 7e-4", "lambda 1", "warm-up of 4 epochs", "branches of length 1")


def together(labels: Sequence[str]) -> Config:
    """The sections of several changes; of two that set the same key the later one counts."""
    return merge(*(CHANGES[label] for label in labels))


def training(labels: Sequence[str]) -> Config:
    """What several changes set beside the network's own options, which ``dfrst_plus`` has as its defaults."""
    return {section: values for section, values in together(labels).items() if section != "model"}


def rows(helped: Sequence[str]) -> dict[str, Config]:
    """Each change alone; then two, three, ... of those that helped, one more each time."""
    alone = {label: together([label]) for label in CHANGES}
    return alone | {" + ".join(helped[:count]): together(helped[:count]) for count in range(2, len(helped) + 1)}
