"""What a run of the engine is asked to do: torchreid's keywords and ours, refused where they cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchreid_dfrst.checks import listed, within
from torchreid_dfrst.messages import nearest

VALIDATION = "validation"
BEST_ON = (VALIDATION, "test", "none")
METRICS = ("euclidean", "cosine")
TEST_OPTIONS = (
    "dist_metric", "normalize_feature", "visrank", "visrank_topk", "save_dir", "use_metric_cuhk03", "ranks", "rerank",
)  # fmt: skip
"""What torchreid's ``Engine.test`` takes, in its order."""


@dataclass(frozen=True)
class RunOptions:
    """The keywords of ``DFRSTEngine.run``; torchreid's come first, in its order, and mean the same here.

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
        visrank: in a ``test_only`` run, torchreid's picture of each query's ranked list, in
            ``save_dir/visrank_<data set>``.
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
        best_on: what chooses ``best.pt`` and ``best.safetensors``, the weights of the highest mAP: ``validation``, on
            held-out training identities (``DataManager(validation_identities=...)``; without any, nothing is kept);
            ``test``, on the test identities of the first target (torchreid users' habit; choosing on what is then
            reported flatters, and ``result.json`` says so); or ``none``.
        pictures: at each evaluation while training, draw ranked lists and attention maps of the first target,
            into ``pictures/`` and TensorBoard.

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
        for name in ("print_freq", "save_freq"):
            within(f"train.{name}", getattr(self, name), lowest=1)
        for name in ("save_steps", "keep_freq", "fixbase_epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}: 0 for none, or 1 or more")
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
