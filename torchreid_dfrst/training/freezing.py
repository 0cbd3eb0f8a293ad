"""The first epochs of a run may train some layers alone: torchreid's two-stepped transfer learning."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torchreid
from torch import nn

from torchreid_dfrst.checks import listed

logger = logging.getLogger(__name__)


class FrozenStart:
    """Which layers are trained when.

    Args:
        model: whose children are opened and frozen, batch norms included.
        fixbase_epoch: epochs in which ``open_layers`` alone are trained; 0 for none.
        open_layers: names of children of the model.
        world_size: processes of the run.

    Raises:
        ValueError: unknown or no layers, or several processes, whose exchange of gradients is laid out at the start.
    """

    def __init__(
        self,
        model: nn.Module,
        fixbase_epoch: int = 0,
        open_layers: str | Sequence[str] | None = None,
        world_size: int = 1,
    ) -> None:
        self.model, self.epochs = model, fixbase_epoch
        self.layers = listed(open_layers)
        if not fixbase_epoch:
            return
        children = [name for name, _ in model.named_children()]
        if not self.layers or not set(self.layers) <= set(children):
            raise ValueError(
                f"fixbase_epoch is {fixbase_epoch} and open_layers {open_layers!r}: name the layers to train in these "
                f"epochs, among {', '.join(children)}"
            )
        if world_size > 1:
            raise ValueError(f"fixbase_epoch is {fixbase_epoch}, which works in one process only, not {world_size}")

    def apply(self, epoch: int) -> None:
        """Open and freeze for an epoch, counted from 0, after the model was put into training mode."""
        if not self.epochs:
            return
        if epoch < self.epochs:
            logger.info("epoch %d trains %s alone", epoch + 1, ", ".join(self.layers))
            torchreid.utils.open_specified_layers(self.model, self.layers)
        else:
            torchreid.utils.open_all_layers(self.model)
