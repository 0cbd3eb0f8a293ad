"""torchreid's engine with the paper's loss, several processes, mixed precision, and checkpoints to go on from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torchreid
from torch import nn
from torch.optim import Optimizer

from torchreid_dfrst.checks import nearest, within
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.retrieval import evaluate
from torchreid_dfrst.training import checkpoint, distributed, snapshot
from torchreid_dfrst.training.embedding import Embedded, embed
from torchreid_dfrst.training.freezing import FrozenStart
from torchreid_dfrst.training.interrupt import MARKER, StoppedError, StopRequest
from torchreid_dfrst.training.journal import Journal
from torchreid_dfrst.training.keeper import Keeper
from torchreid_dfrst.training.last_words import ended_together
from torchreid_dfrst.training.memory import explained
from torchreid_dfrst.training.progress import Progress
from torchreid_dfrst.training.randomness import random_state, set_random_state
from torchreid_dfrst.training.step import NonFiniteError, StepResult, TrainStep
from torchreid_dfrst.training.validation import Appearance
from torchreid_dfrst.training.watching import draw, torchreids_pictures

logger = logging.getLogger(__name__)

VALIDATION = "validation"
BEST_ON = (VALIDATION, "test", "none")


class DFRSTEngine(torchreid.engine.Engine):
    """Trains and evaluates like ``torchreid.engine.ImageTripletEngine``, from which it differs in the inside.

    With ``torchreid_dfrst.data.loading.DataManager`` a run can stop and resume at any step, bit for bit; with
    torchreid's own ``ImageDataManager`` it resumes, and draws its batches anew; that one is for a single process.

    Args:
        datamanager: torchreid's or ours.
        model: gives ``(logits, features)`` in training and ``(B, D)`` in evaluation.
        optimizer: over its parameters.
        scheduler: torchreid's (advanced every epoch), ours (every step), or None.
        loss: the criterion; None for the paper's.
        use_gpu: train on the GPU if there is one.
        describe: what is stored with checkpoints and exported weights, JSON types.

    Raises:
        ValueError: the data manager does not share its images among the processes there are, or ``describe`` holds
            other than JSON types.
    """

    def __init__(
        self,
        datamanager: Any,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any = None,
        loss: DFRSTLoss | None = None,
        use_gpu: bool = True,
        describe: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(datamanager, use_gpu)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)
        self.loss = loss or DFRSTLoss()
        try:
            # what only looks like a number or a list, as NumPy's do, becomes one
            self.describe = json.loads(json.dumps(dict(describe or {})))
        except TypeError as error:
            raise ValueError(f"describe takes JSON types alone: {error}") from error
        self.group = distributed.current()
        self.device = torch.device(f"cuda:{self.group.local_rank}" if self.use_gpu else "cpu")
        self.sampler = getattr(datamanager, "sampler", None)
        shared = getattr(datamanager, "world_size", 1)
        if shared != self.group.world_size:
            raise ValueError(
                f"{type(datamanager).__name__} makes batches for {shared} process(es) and there are "
                f"{self.group.world_size}, of which each would train on and count the same images: use "
                "torchreid_dfrst.data.loading.DataManager with this rank and world_size"
            )
        self.images = snapshot.digest(datamanager)
        self.steps_per_epoch = len(self.train_loader)
        self.batch, self.evaluated, self.first_step = 0, True, 0
        self.best: dict[str, Any] = {}
        # what result.json says, where run found nothing left to do
        self.finished: dict[str, Any] | None = None
        # of the steps since the last line of numbers, and the files in each
        self.results: list[StepResult] = []
        self.names: list[list[str]] = []
        self.precision, self.channels_last = "fp32", True
        self.draw = False
        self.stop = StopRequest()
        self.bar: Callable[..., Any] | None = None
        self.appearance = Appearance()
        self.ranks: Sequence[int] = (1, 5, 10, 20)
        self.model.to(self.device)

    @property
    def global_step(self) -> int:
        """Optimiser steps taken so far."""
        return int(self.epoch * self.steps_per_epoch + self.batch)

    def run(
        self,
        save_dir: str = "log",
        max_epoch: int = 0,
        start_epoch: int = 0,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: str | Sequence[str] | None = None,
        start_eval: int = 0,
        eval_freq: int = -1,
        test_only: bool = False,
        dist_metric: str = "euclidean",
        normalize_feature: bool = True,
        visrank: bool = False,
        visrank_topk: int = 10,
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
        precision: str = "fp32",
        channels_last: bool = True,
        compile: bool = False,
        resume: str | None = None,
        save_freq: int = 1,
        save_steps: int = 0,
        keep_freq: int = 0,
        best_on: str = VALIDATION,
        pictures: bool = True,
        bar: Callable[..., Any] | None = None,
        started: Callable[[], None] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Train, evaluate, save; torchreid's keywords come first, in its order, and mean the same here.

        Evaluation is by appearance, with the junk rule. Unlike torchreid's, embeddings are L2-normalised by default.

        The last weights are the result (``weights.safetensors``). ``best_on`` says what else is kept as ``best.pt``
        and ``best.safetensors``: those of the highest mAP on held-out training identities
        (``DataManager(validation_identities=...)``; without any, nothing is kept), on the test identities of the first
        target (torchreid users' habit; choosing on what is then reported flatters, and ``result.json`` says so), or
        nothing.

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
            best_on: ``validation``, ``test`` or ``none``.
            pictures: at each evaluation while training, draw ranked lists and attention maps of the first target,
                into ``pictures/`` and TensorBoard.
            bar: progress bar, such as ``tqdm.tqdm``; None logs a line instead.
            started: called in process 0 once nothing can be refused any more and ``save_dir`` is this run's.

        Returns:
            The last evaluation: data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1]; that of ``result.json`` where
            the run was finished before, in which case nothing is done.

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; the state is saved, and ``save_dir/stopped`` says so.
            NonFiniteError: the loss or a gradient is not finite, or under fp16 none was in the whole run.
            ValueError: unusable settings, or a checkpoint that does not belong to this run.
            OSError: ``save_dir`` cannot be written, memory ran out, a loading process died, or another process of the
                run could not go on.
        """
        if best_on not in BEST_ON:
            raise KeyError(f"unknown train.best_on {best_on!r}{nearest(best_on, BEST_ON)}")
        for setting, value in {"print_freq": print_freq, "save_freq": save_freq}.items():
            within(f"train.{setting}", value, lowest=1)
        for setting, value in {
            "save_steps": save_steps,
            "keep_freq": keep_freq,
            "fixbase_epoch": fixbase_epoch,
        }.items():
            if value < 0:
                raise ValueError(f"train.{setting} is {value}: 0 for none, or 1 or more")
        for rank in ranks:
            within("train.ranks: one of them", rank, lowest=1)
        self.precision, self.channels_last, self.bar = precision, channels_last, bar
        self.save_dir = Path(save_dir)
        if precision == "fp16" and self.device.type == "cpu" and self.group.main:
            logger.warning("train.precision is fp16, which a CPU imitates, many times slower than fp32: bf16 is faster")
        if test_only:
            return self.test(
                dist_metric, normalize_feature, visrank, visrank_topk, save_dir, use_metric_cuhk03, ranks, rerank
            )
        for setting, on in {"rerank": rerank, "visrank": visrank}.items():
            if on:
                raise ValueError(f"{setting} is for test_only runs: evaluations while training are by appearance alone")
        self._refuse_cuhk03(use_metric_cuhk03)
        self.appearance, self.ranks = Appearance(dist_metric, normalize_feature), ranks
        self.appearance.check()
        self.frozen = FrozenStart(self.model, fixbase_epoch, open_layers, self.group.world_size)
        self.max_epoch, self.print_freq, self.best_on = max_epoch, print_freq, best_on
        self.save_steps, self.keep_freq, self.draw = save_steps, keep_freq, pictures
        self.epoch, self.batch, self.evaluated, self.best = start_epoch, 0, True, {}
        self.keeper = Keeper(self.save_dir / "checkpoints", self.group.rank)
        self.step = TrainStep(
            self.model, self.optimizer, self.loss, self.device, precision, channels_last, compile, self.group
        )
        restored = snapshot.resume(self, resume)
        self.finished = snapshot.finished(self) if restored is not None else None
        if self.finished is not None:
            self._say_finished(self.finished)
            return dict(self.finished["metrics"])
        if best_on == VALIDATION and self.group.main and not getattr(self.datamanager, VALIDATION, None):
            logger.info(
                "the weights of the last epoch will be the result; to keep the best ones as well, hold out training "
                "identities to choose on (data.validation_identities)"
            )
        self.first_step = self.global_step

        def evaluation_due() -> bool:
            last = self.epoch == max_epoch
            return last or (eval_freq > 0 and self.epoch >= start_eval and self.epoch % eval_freq == 0)

        def begin() -> None:
            if self.group.main:
                (self.save_dir / MARKER).unlink(missing_ok=True)
            repeats = not self.evaluated and evaluation_due()
            self.journal = Journal(self.save_dir, self.global_step, self.group.main, repeats)
            if started is not None and self.group.main:
                started()

        distributed.together(begin)

        metrics: dict[str, dict[str, float]] = {}
        with ended_together(), explained(), StopRequest() as self.stop:
            try:
                while True:
                    if self.epoch >= max_epoch:
                        self.step.refuse_untrained(self.global_step)
                    if not self.evaluated:
                        if evaluation_due():
                            metrics = self._evaluate_all(best=True)
                        self.evaluated = True
                    if self.epoch >= max_epoch:
                        break
                    self._train_epoch(restored)
                    restored = None
                    if self.stop.agree()[0]:
                        self._leave()
                    kept = keep_freq and self.epoch % keep_freq == 0
                    if kept or self.epoch % save_freq == 0 or evaluation_due():
                        self._save(final=self.epoch == max_epoch)
                if not metrics:
                    metrics = self._evaluate_all()
                distributed.together(lambda: self._export(snapshot.WEIGHTS))
            finally:
                self.journal.close()
        return metrics

    def _say_finished(self, result: Mapping[str, Any]) -> None:
        if not self.group.main:
            return
        (self.save_dir / MARKER).unlink(missing_ok=True)
        logger.info(
            "%s is finished (epoch %d, step %d): nothing is trained, evaluated or written again. Raise train.max_epoch "
            "to train longer, or evaluate %s with tools/extract.py and tools/evaluate.py",
            self.save_dir, self.epoch, self.global_step, self.save_dir / snapshot.WEIGHTS,
        )  # fmt: skip
        for name, values in result["metrics"].items():
            logger.info("%s after epoch %d: %s", name, self.epoch, _words(values))

    def _train_epoch(self, restored: Mapping[str, Any] | None) -> None:
        """Train to the end of the current epoch, from the current batch on."""
        self.model.train()
        self.frozen.apply(self.epoch)
        if self.sampler is not None:
            self.sampler.seek(self.epoch, self.batch)
        batches = iter(self.train_loader)
        if restored is not None:
            # torchreid's loader draws from the generators as it starts
            set_random_state(restored)
        label = f"epoch {self.epoch + 1}/{self.max_epoch}"
        self.progress = Progress(self.journal, label, self.steps_per_epoch, self.batch, self.bar, self.group.main)
        self.results, self.names = [], []
        every_step = getattr(self.scheduler, "every_step", False)
        for data in self._until_stopped(batches):
            self.rate = self.get_current_lr()
            result = self.step(data["img"], data["pid"])
            self.results.append(result)
            self.names.append(list(data["impath"]))
            self.batch += 1
            self.progress.step(len(data["pid"]) * self.group.world_size)
            last = self.batch == self.steps_per_epoch
            if self.device.type == "cpu":
                self._check([result], self.names[-1:])
            if self.batch % self.print_freq == 0 or last:
                self._note()
            if every_step:
                self.scheduler.step()
            if last:
                self.epoch, self.batch, self.evaluated = self.epoch + 1, 0, False
                if self.scheduler is not None and not every_step:
                    self.scheduler.step()
            if self.save_steps and self.global_step % self.save_steps == 0 and not last:
                self._save()
            if last:
                break
        self.progress.close()

    def _note(self) -> None:
        """Show and write down the steps since the last time, if they were finite."""
        self._check(self.results, self.names)
        left = (self.max_epoch * self.steps_per_epoch - self.global_step) * self.train_batch
        self.progress.note(self.results, self.global_step, self.rate, self.epoch + 1, left)
        self.results, self.names = [], []

    def _until_stopped(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches, as long as every process has one and none is asked to stop: all leave before the same step."""
        while True:
            data, failure = None, None
            if not self.stop.requested:
                try:
                    data = next(batches)
                except StopIteration:
                    return
                except Exception as error:
                    failure = error
            self._leave_together(failure, unsaved=self.global_step > self.first_step)
            if data is not None:
                yield data

    def _leave_together(self, failure: Exception | None, unsaved: bool) -> None:
        """Called by all processes at once, each with what happened to it: return if all can go on."""
        if isinstance(failure, ChildProcessError):
            time.sleep(0.2)  # the signal that ended loading processes too may reach this one a moment later
        asked, failed = self.stop.agree(failure is not None)
        if asked:
            self._leave()
        if failed:
            if unsaved:
                try:
                    self._save(final=True)
                except NonFiniteError:
                    raise
                except (OSError, ValueError) as error:
                    logger.error("the run ends, and what it has trained could not be saved: %s", error)
            distributed.raise_together(failure)

    def _leave(self) -> NoReturn:
        """Save and end the run; rank 0 may still be writing when the others are here."""
        self._save(final=True)
        if self.results:
            self._note()
        # all wait for process 0: torchrun ends the others soon after the first has left
        distributed.together(self._mark)
        raise StoppedError(
            f"stopped as asked after step {self.global_step} (epoch {min(self.epoch + 1, self.max_epoch)}); go on with "
            f"train.resume auto from {self.keeper.folder}"
        )

    def _mark(self) -> None:
        if self.group.main:
            (self.save_dir / MARKER).write_text(f"after step {self.global_step}\n", encoding="utf-8")

    @property
    def train_batch(self) -> int:
        """Images per step over all processes."""
        return self.sampler.batch if self.sampler is not None else int(self.train_loader.batch_size)

    def _check(self, results: list[StepResult], names: list[list[str]]) -> None:
        """Stop at the first step that was not finite in any process; called by all of them at once."""
        if not results:
            return
        first = next((place for place, result in enumerate(results) if self.step.failed(result)), None)
        places = [place for place in distributed.of_all(first) if place is not None]
        if not places:
            return
        place = min(places)
        result = results[place]
        norm = result.gradient_norm.item()
        shares = distributed.of_all((result.loss.item(), names[place]))
        loss = sum(share for share, _ in shares) / len(shares)
        self.batch -= len(results) - place
        self.results, self.names = [], []
        raise NonFiniteError(
            f"step {self.global_step + 1} (epoch {self.epoch + 1}) is not finite: loss {loss}, gradient norm {norm}. "
            f"Last good state: {self._last_good()}. Its images: "
            f"{', '.join(file for _, files in shares for file in files)}. "
            "Lower optim.lr, lengthen the warm-up, or use train.precision fp32"
        )

    def _last_good(self) -> str:
        """Where the state before a step that failed is to be found; called by all processes together."""
        try:
            if self.device.type == "cpu":
                self.step.undo()
                self._save(final=True)
        except (OSError, ValueError) as error:
            logger.error("the state before the step could not be saved: %s", error)
        try:
            # process 0 has saved before the first of them leaves
            good = distributed.together(lambda: self.keeper.newest() if self.group.main else None)[0]
        except (OSError, ValueError) as error:
            return f"unknown ({error})"
        return str(good or "none (no checkpoint had been made)")

    @explained()
    def test(
        self,
        dist_metric: str = "euclidean",
        normalize_feature: bool = True,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "log",
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> dict[str, dict[str, float]]:
        """Evaluate by appearance on held-out training identities, if there are any, and on every target.

        Args: torchreid's, see ``run``.

        Returns:
            Data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1].

        Raises:
            KeyError, ValueError: settings that cannot be had.
            OSError: memory ran out.
        """
        self._refuse_cuhk03(use_metric_cuhk03)
        self.appearance, self.ranks = Appearance(dist_metric, normalize_feature, rerank), ranks
        self.appearance.check()
        return self._evaluate_all(visrank=visrank_topk if visrank else 0, folder=Path(save_dir))

    def _evaluate_all(
        self, best: bool = False, visrank: int = 0, folder: Path | None = None
    ) -> dict[str, dict[str, float]]:
        """Score every set; ``best`` journals, draws and remembers the weights if they are the best so far."""
        validation = getattr(self.datamanager, VALIDATION, None)
        metrics = {}
        for name, parts in {**({VALIDATION: validation} if validation else {}), **self.test_loader}.items():
            query, gallery = self.embed(parts["query"]), self.embed(parts["gallery"])
            far = self.appearance.blocks(query.embedding, gallery.embedding)
            scores = evaluate(far, query.identity, gallery.identity, query.camera, gallery.camera)
            values = {"mAP": scores.mAP, "mINP": scores.mINP, **{f"rank{r}": scores.rank(r) for r in self.ranks}}
            metrics[name] = values
            if not self.group.main:
                continue
            logger.info("%s after epoch %d: %s", name, self.epoch, _words(values))
            if best:
                self.journal.write(name, self.global_step, {**values, "epoch": self.epoch})
                if self.draw and name == next(iter(self.test_loader)):
                    self._show(name, query, gallery)
            if visrank and folder is not None:
                size = (self.datamanager.width, self.datamanager.height)
                # made again: torchreid sorts every row whole, and nobody holds them all
                far = self.appearance.blocks(query.embedding, gallery.embedding)
                torchreids_pictures(folder / f"visrank_{name}", query, gallery, far, visrank, *size)
        if best:
            self._keep_best(metrics)
        return metrics

    def _show(self, name: str, query: Embedded, gallery: Embedded) -> None:
        far, transform = self.appearance.blocks, self.datamanager.transform_te
        try:
            drawn = draw(self.save_dir, name, self.epoch, query, gallery, far, self.model, transform)
            for kind, path in drawn.items():
                self.journal.picture(f"{name}/{kind}", self.global_step, path)
        except Exception as error:
            # process 0 draws alone, and a picture is not worth a run
            logger.error("no pictures of %s after epoch %d (%s): training goes on", name, self.epoch, error)

    def _refuse_cuhk03(self, asked: bool) -> None:
        if asked:
            raise ValueError(
                "use_metric_cuhk03 (one gallery image per identity, drawn at random) is not offered by this engine: "
                "take torchreid's ImageTripletEngine for CUHK03"
            )

    def embed(self, loader: Any) -> Embedded:
        """Embeddings of a test loader's images, with this run's precision; see ``embedding.embed``."""
        bar = self.bar if self.group.main else None

        def agree(failure: Exception | None) -> None:
            # in a run it may be the wish to stop, or come with it
            self._leave_together(failure, unsaved=False)

        return embed(self.model, loader, self.device, self.precision, self.channels_last, bar, self.stop.check, agree)

    def _keep_best(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        name = next(iter(self.test_loader), "") if self.best_on == "test" else self.best_on
        if name not in metrics:
            return
        before, mean = self.best, metrics[name]["mAP"]
        if mean <= before.get("mAP", -1.0):
            return
        first = metrics[name].get("rank1", 0.0)
        self.best = {"mAP": mean, "rank1": first, "step": self.global_step, "epoch": self.epoch, "chosen_on": name}
        path = self._save()
        kept = path is not None
        try:
            if path is not None:
                checkpoint.copy(path, self.keeper.folder / "best.pt")
                self._export("best.safetensors", best=self.best)
        except OSError as error:
            kept = False
            logger.error("the best weights so far could not be kept (%s): training goes on", error)
        # process 0 wrote: all of them remember what is there
        if not distributed.of_all(kept)[0]:
            self.best = before

    def _export(self, name: str, **more: Any) -> None:
        if self.group.main:
            about = {**self.describe, "step": self.global_step, "epoch": self.epoch, **more}
            checkpoint.export(self.save_dir / name, self.model, about)

    def _save(self, final: bool = False) -> Path | None:
        """Save in process 0; called by all processes together."""
        # on a GPU perhaps the first look at these steps
        self._check(self.results, self.names)
        each = self.keep_freq * self.steps_per_epoch

        def write(states: list[dict[str, Any]]) -> Path | None:
            if not self.group.main:
                return None
            return self.keeper.save(self.global_step, snapshot.take(self, states), each, final)

        states = distributed.of_all(random_state())
        # what process 0 cannot save ends all of them
        return distributed.together(lambda: write(states))[self.group.rank]


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.1%}" for key, value in values.items())
