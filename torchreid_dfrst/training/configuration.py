"""What training can be told: the sections of a configuration, their defaults, and the keywords of the engine's run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchreid

from torchreid_dfrst import evaluation
from torchreid_dfrst.checks import listed, within
from torchreid_dfrst.config import Config, Keywords, keywords
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.models import DFRST, FACTORIES, build, default_options, own_input
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training.memory import keep_freed
from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler

NOT_FOR_TRAINING = (
    "test_only", "rerank", "start_epoch", "visrank", "visrank_topk", "use_metric_cuhk03",
)  # fmt: skip
"""Keywords of ``DFRSTEngine.run`` that a configuration has no use for."""

SECTIONS = ("data", "loss", "optim", "scheduler", "train")
"""What training reads beside the network's section; the rest is for dfrst evaluate."""
VALIDATION = "validation"
BEST_ON = (VALIDATION, "test", "none")
METRICS = ("euclidean", "cosine")


@dataclass(frozen=True)
class RunOptions:
    """The keywords of ``DFRSTEngine.run``; torchreid's come first, in its order, and mean what they mean there.

    Args:
        save_dir: folder of ``checkpoints/``, ``metrics.jsonl``, TensorBoard files and exported weights.
        max_epoch: epochs to train in all.
        start_epoch: first epoch; set by ``resume``.
        print_freq: steps between two lines of numbers; only then are they read from the device.
        fixbase_epoch: first epochs in which ``open_layers`` alone are trained.
        open_layers: names of children of the model, such as ``heads``; the others stand still for those epochs.
        start_eval: first epoch after which to evaluate.
        eval_freq: epochs between evaluations; -1 evaluates at the end only.
        test_only: evaluate, do not train.
        dist_metric: ``euclidean`` or ``cosine``, in evaluation.
        normalize_feature: L2-normalise embeddings before they are compared.
        visrank: in a ``test_only`` run, draw each query's ranked list into ``save_dir/visrank_<data set>``.
        visrank_topk: images in each of these lists.
        use_metric_cuhk03: not offered; True is refused.
        ranks: CMC ranks to log.
        rerank: in a ``test_only`` run, rank by k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3).
        precision: ``fp32``, ``bf16`` or ``fp16``, see ``TrainStep``.
        channels_last: memory layout of images and convolutions.
        compile: run the model through ``torch.compile``.
        resume: a checkpoint, or ``auto`` for the newest whole one in ``save_dir`` (none: start anew).
        save_freq: epochs between checkpoints; the last epoch and those with an evaluation always make one.
        save_steps: steps between further checkpoints within an epoch; 0 for none.
        keep_freq: every checkpoint after this many epochs stays; 0 keeps the last two alone.
        best_on: what chooses ``best.safetensors``, the weights of the highest mAP: ``validation``, on held-out training
            identities (``data.validation_identities``; without any, nothing is kept); ``test``, on the test identities
            of the first target, which flatters what is then reported; or ``none``.
        pictures: at each evaluation, draw ranked lists and attention maps of the first target.

    Raises:
        KeyError: an unknown ``dist_metric`` or ``best_on``.
        ValueError: a number out of its range, what this engine does not offer, or what is for ``test_only`` runs.
    """

    save_dir: str = "log"
    max_epoch: int = 0
    start_epoch: int = 0
    print_freq: int = 10
    fixbase_epoch: int = 0
    open_layers: str | Sequence[str] | None = None
    start_eval: int = 0
    eval_freq: int = -1
    test_only: bool = False
    dist_metric: str = "euclidean"
    normalize_feature: bool = True
    visrank: bool = False
    visrank_topk: int = 10
    use_metric_cuhk03: bool = False
    ranks: Sequence[int] = (1, 5, 10, 20)
    rerank: bool = False
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    resume: str | None = None
    save_freq: int = 1
    save_steps: int = 0
    keep_freq: int = 0
    best_on: str = VALIDATION
    pictures: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be had, before anything is written."""
        if self.best_on not in BEST_ON:
            raise KeyError(f"unknown train.best_on {self.best_on!r}{nearest(self.best_on, BEST_ON)}")
        for name in ("print_freq", "save_freq", "save_steps", "keep_freq", "fixbase_epoch"):
            within(f"train.{name}", getattr(self, name), lowest=1 if name in ("print_freq", "save_freq") else 0)
        for rank in self.ranks:
            within("train.ranks: one of them", rank, lowest=1)
        for name in () if self.test_only else ("rerank", "visrank"):
            if getattr(self, name):
                raise ValueError(f"{name} is for test_only runs: evaluations while training are by appearance alone")
        if self.use_metric_cuhk03:
            raise ValueError(
                "use_metric_cuhk03 (one gallery image per identity, drawn at random) is not offered by this engine: "
                "take torchreid's ImageTripletEngine for CUHK03"
            )
        if self.dist_metric not in METRICS:
            raise KeyError(f"unknown dist_metric {self.dist_metric!r}{nearest(self.dist_metric, METRICS)}")
        if self.rerank and not (self.dist_metric == "euclidean" and self.normalize_feature):
            raise ValueError(
                f"rerank with dist_metric {self.dist_metric!r} and normalize_feature {self.normalize_feature}: it "
                "takes Euclidean distances of normalised embeddings; leave both at their defaults"
            )

    def evaluation_due(self, epoch: int) -> bool:
        """Is there an evaluation after so many epochs?"""
        asked = self.eval_freq > 0 and epoch >= self.start_eval and epoch % self.eval_freq == 0
        return asked or epoch == self.max_epoch

    def checkpoint_due(self, epoch: int) -> bool:
        """Is there a checkpoint after so many epochs?"""
        kept = self.keep_freq and epoch % self.keep_freq == 0
        return bool(kept) or epoch % self.save_freq == 0 or self.evaluation_due(epoch)

    def layers(self, children: Sequence[str], world_size: int) -> list[str]:
        """The children of the model that the first epochs train alone; empty for no such epochs.

        Raises:
            ValueError: unknown or no layers, or several processes, whose exchange of gradients is laid out at the
                start.
        """
        if not self.fixbase_epoch:
            return []
        layers = listed(self.open_layers)
        if not layers or not set(layers) <= set(children):
            raise ValueError(
                f"fixbase_epoch is {self.fixbase_epoch} and open_layers {self.open_layers!r}: name the layers to train "
                f"in these epochs, among {', '.join(children)}"
            )
        if world_size > 1:
            raise ValueError(
                f"fixbase_epoch is {self.fixbase_epoch}, which works in one process only, not {world_size}"
            )
        return layers


def sections() -> dict[str, Keywords]:
    """The configuration of training: section to valid keys, each the keyword arguments of what reads it."""
    return {
        "model": keywords(build_model, build, DFRST, leave_out=("loss",)),
        "data": keywords(DataManager, leave_out=("rank", "world_size", "seed", "use_gpu")),
        "loss": keywords(DFRSTLoss),
        "optim": keywords(
            build_optimizer,
            torchreid.optim.build_optimizer,
            optim=str,
            sgd_dampening=float,
            new_layers=str | Sequence[str],
        ),
        "scheduler": keywords(build_scheduler, leave_out=("max_epoch",)),
        # what dfrst evaluate reads from the same file
        **evaluation.sections(),
        "train": keywords(RunOptions, settings, leave_out=NOT_FOR_TRAINING),
    }


def settings(seed: int = 0, use_gpu: bool = True, threads: int = 0, keep_memory: bool = True) -> tuple[int, bool]:
    """Fix what the whole process shares before anything is made.

    Args:
        seed: of initial weights, batches and augmentation.
        use_gpu: use it if there is one.
        threads: CPU threads; 0 leaves PyTorch's choice. Bit-for-bit repetition needs the same number.
        keep_memory: on a CPU, keep freed memory for the next step, see ``memory.keep_freed``.

    Raises:
        ValueError: a number is out of its range.
    """
    within("seed", seed, below=2**32)
    within("threads", threads)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  torchreid and its transforms may draw from the global generators
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    if keep_memory and not (use_gpu and torch.cuda.is_available()):
        keep_freed()
    return seed, use_gpu


def with_defaults(config: Config) -> Config:
    """The configuration with the defaults of whatever it leaves out, as far as training reads it."""
    read = sections()
    defaults = {name: read[name].defaults for name in SECTIONS}
    defaults["model"] = keywords(build_model).defaults
    network = {**defaults["model"], **config["model"]}["name"]
    if network in FACTORIES:
        options = {"weights": None, **default_options(network)}
        defaults["model"].update({name: value for name, value in options.items() if name in read["model"]})
    return {name: {**defaults.get(name, {}), **section} for name, section in config.items()}


def with_own_input(config: Config) -> Config:
    """The configuration with the image size and normalisation of the backbone's weights where it says none."""
    data, network = config["data"], config["model"].get("name", "dfrst")
    own = own_input({**default_options(network), **config["model"]}["backbone"]) if network in FACTORIES else {}
    for pair in (("height", "width"), ("norm_mean", "norm_std")):
        if own and not any(name in data for name in pair):
            data = {**data, **{name: own[name] for name in pair}}
    return {**config, "data": data}
