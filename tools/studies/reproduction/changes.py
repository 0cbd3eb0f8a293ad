"""What might help DFR-ST, and what did: the rows of table ``changes``."""

from __future__ import annotations

from collections.abc import Sequence

from tools.studies.reproduction.preset import merge
from torchreid_dfrst.config import Config, checked
from torchreid_dfrst.training import sections, with_defaults

STREAMS, PARTS = [1, 1], 12
AS_DIVISION = [4, 4] + [1] * PARTS  # of 4 parts
FASTER = "all layers at twice the rate"
# those that helped, in the order in which they are added to one another; ``models.zoo.PLUS`` has the networks'
# options among them, and the rows of ``dfrst_plus`` are trained with the rest
HELPED: tuple[str, ...] = (FASTER, "lambda 1", "warm-up in a quarter of the epochs", "branches of length 1")


def changes(usual: Config) -> dict[str, Config]:
    """One change each: label to sections of training.

    Args:
        usual: the sections that they go on top of; rates and warm-up are multiples of theirs.
    """
    whole = with_defaults(checked(usual, sections(), "training"))
    rate, epochs, data = whole["optim"]["lr"], whole["train"]["max_epoch"], whole["data"]
    # of 96 pixels 128, of 128 pixels 160
    larger = {side: 32 * round(data[side] / 24) for side in ("height", "width")}
    return {
        "branches of length 1": {"model": {"normalise_branches": True}},
        "GeM pooling": {"model": {"pool": "gem"}},
        "max pooling": {"model": {"pool": "max"}},
        "2 parts per division": {"model": {"parts": 2}},
        "conv4 shared by the streams": {"model": {"shared_stages": 3}},
        "backbone at a third of the rate of new layers": {
            "optim": {"staged_lr": True, "new_layers": ["heads"], "base_lr_mult": 0.33},
        },
        "new layers at three times the rate": {
            "optim": {"staged_lr": True, "new_layers": ["heads"], "lr": 3 * rate, "base_lr_mult": 1 / 3},
        },
        FASTER: {"optim": {"lr": 2 * rate}},
        "lambda 1": {"loss": {"triplet_weight": 1.0}},
        "warm-up in a quarter of the epochs": {"scheduler": {"warmup_epoch": round(epochs / 4)}},
        "height and channel divided, width not": {"model": {"divisions": ["height", "channel"]}},
        "triplet loss on the two whole-image branches alone": {"loss": {"triplet_branches": STREAMS + [0] * PARTS}},
        "losses of the two streams weigh as much as a division's": {
            "loss": {"cross_entropy_branches": AS_DIVISION, "triplet_branches": AS_DIVISION},
        },
        "larger images": {"data": larger},
        "colours and brightness changed": {"data": {"transforms": [*data["transforms"], "color_jitter"]}},
        "half as many epochs again": {
            "train": {"max_epoch": round(1.5 * epochs)},
            "scheduler": {"stepsize": [round(1.5 * step) for step in whole["scheduler"]["stepsize"]]},
        },
        "no label smoothing": {"loss": {"epsilon": 0.0}},
    }


def together(labels: Sequence[str], usual: Config) -> Config:
    """The sections of several changes; of two that set the same key the later one counts."""
    known = changes(usual)
    return merge(*(known[label] for label in labels))


def training_of_plus(usual: Config) -> Config:
    """How ``dfrst_plus`` is trained: what helped, beside the network's own options, which it has as its defaults."""
    return {section: values for section, values in together(HELPED, usual).items() if section != "model"}


def rows(usual: Config, helped: Sequence[str] = HELPED) -> dict[str, Config]:
    """Each change alone; then two, three, ... of those that helped, one more each time."""
    added = {" + ".join(helped[:count]): together(helped[:count], usual) for count in range(2, len(helped) + 1)}
    return changes(usual) | added
