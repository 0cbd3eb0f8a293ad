"""torchreid's engine with the paper's loss, several processes, mixed precision, and checkpoints to go on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torchreid
from torch import nn
from torch.optim import Optimizer

from torchreid_dfrst import checkpoint
from torchreid_dfrst.embedding import Embedded, embed
from torchreid_dfrst.loop import distributed
from torchreid_dfrst.loop.interrupt import StoppedError, StopRequest
from torchreid_dfrst.loop.journal import Journal
from torchreid_dfrst.loop.step import NonFiniteError, StepResult, TrainStep
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.names import nearest
from torchreid_dfrst.retrieval import distance, evaluate, normalise, rerank
from torchreid_dfrst.watching import attention_picture, ranking_picture

logger = logging.getLogger(__name__)

VALIDATION = "validation"
BEST_ON = (VALIDATION, "test", "none")


class DFRSTEngine(torchreid.engine.Engine):
    """Trains and evaluates like ``torchreid.engine.ImageTripletEngine``, from which it differs in the inside.

    With ``torchreid_dfrst.data.loading.DataManager`` a run can stop and resume at any step, bit for bit; with
    torchreid's own ``ImageDataManager`` it resumes, and draws its batches anew.

    Args:
        datamanager: torchreid's or ours.
        model: gives ``(logits, features)`` in training and ``(B, D)`` in evaluation.
        optimizer: over its parameters.
        scheduler: torchreid's (advanced every epoch), ours (every step), or None.
        loss: the criterion; None for the paper's.
        use_gpu: train on the GPU if there is one.
        describe: what is stored with checkpoints and exported weights, JSON types.
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
        self.describe = dict(describe or {})
        self.group = distributed.current()
        self.device = torch.device(f"cuda:{self.group.local_rank}" if self.use_gpu else "cpu")
        self.sampler = getattr(datamanager, "sampler", None)
        self.steps_per_epoch = len(self.train_loader)
        self.batch, self.evaluated = 0, True
        self.best: dict[str, Any] = {}
        self.precision, self.channels_last = "fp32", True
        self.pictures = False
        self.bar: Callable[..., Any] | None = None
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
        start_eval: int = 0,
        eval_freq: int = -1,
        test_only: bool = False,
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
    ) -> dict[str, dict[str, float]]:
        """Train, evaluate, save; the keywords that torchreid's ``run`` has too mean the same here.

        Evaluation is by appearance: Euclidean distances of L2-normalised embeddings, with the junk rule.

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
            start_eval: first epoch after which to evaluate.
            eval_freq: epochs between evaluations; -1 evaluates at the end only.
            test_only: evaluate, do not train.
            ranks: CMC ranks to log.
            rerank: in a ``test_only`` run, rank by k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3).
            precision: ``fp32``, ``bf16`` or ``fp16``, see ``TrainStep``.
            channels_last: memory layout of images and convolutions.
            compile: run the model through ``torch.compile``.
            resume: a checkpoint, or ``auto`` for the newest whole one in ``save_dir`` (none: start anew).
            save_freq: epochs between checkpoints; the last epoch always makes one.
            save_steps: steps between further checkpoints within an epoch; 0 for none.
            keep_freq: every checkpoint after this many epochs stays; 0 keeps the last two alone.
            best_on: ``validation``, ``test`` or ``none``.
            pictures: at each evaluation while training, draw ranked lists and attention maps of the first target,
                into ``pictures/`` and TensorBoard.
            bar: progress bar, such as ``tqdm.tqdm``; None logs a line instead.

        Returns:
            The last evaluation: data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1].

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; the state is saved.
            NonFiniteError: the loss or a gradient is not finite.
            ValueError: unusable settings, or a checkpoint that does not belong to this run.
            OSError: ``save_dir`` cannot be written, memory ran out, or a loading process died.
        """
        if best_on not in BEST_ON:
            raise KeyError(f"unknown train.best_on {best_on!r}{nearest(best_on, BEST_ON)}")
        for setting, value in {"print_freq": print_freq, "save_freq": save_freq}.items():
            if value < 1:
                raise ValueError(f"train.{setting} is {value}: 1 or more")
        self.precision, self.channels_last, self.bar, self.ranks = precision, channels_last, bar, ranks
        if test_only:
            return self.test(rerank=rerank)
        if rerank:
            raise ValueError("rerank is for test_only runs: evaluations while training are by appearance alone")
        self.save_dir, self.folder = Path(save_dir), Path(save_dir) / "checkpoints"
        self.max_epoch, self.print_freq, self.best_on = max_epoch, print_freq, best_on
        self.save_steps, self.keep_freq, self.pictures = save_steps, keep_freq, pictures
        self.epoch, self.batch = start_epoch, 0
        self._prepare_folder()
        self.step = TrainStep(
            self.model, self.optimizer, self.loss, self.device, precision, channels_last, compile, self.group
        )
        restored = self._resume(resume)
        if best_on == VALIDATION and self.group.main and not getattr(self.datamanager, VALIDATION, None):
            logger.info(
                "no best weights will be kept, the last are the result: hold out training identities with "
                "data.validation_identities to choose on them"
            )
        self.journal = Journal(self.save_dir, self.global_step, active=self.group.main)
        metrics: dict[str, dict[str, float]] = {}
        with StopRequest() as self.stop:
            try:
                while True:
                    if not self.evaluated:
                        last = self.epoch == max_epoch
                        if last or (eval_freq > 0 and self.epoch >= start_eval and self.epoch % eval_freq == 0):
                            metrics = self.test(best=True)
                        self.evaluated = True
                    if self.epoch >= max_epoch:
                        break
                    self._train_epoch(restored)
                    restored = None
                    if self.epoch % save_freq == 0 or self.epoch == max_epoch:
                        self._save(final=self.epoch == max_epoch)
                if not metrics:
                    metrics = self.test()
                self._export("weights.safetensors")
            except torch.OutOfMemoryError as error:
                raise OSError(_out_of_memory(error)) from error
            except RuntimeError as error:
                if "can't allocate memory" in str(error):
                    raise OSError(_out_of_memory(error)) from error
                raise
            finally:
                self.journal.close()
        return metrics

    def _train_epoch(self, random_state: Mapping[str, Any] | None) -> None:
        """Train to the end of the current epoch, from the current batch on."""
        self.model.train()
        if self.sampler is not None:
            self.sampler.seek(self.epoch, self.batch)
        batches = iter(self.train_loader)
        if random_state is not None:
            # after the loader's start, which may draw from the generators
            checkpoint.set_random_state(random_state)
        progress = None
        if self.bar is not None and self.group.main:
            label = f"epoch {self.epoch + 1}/{self.max_epoch}"
            progress = self.bar(total=self.steps_per_epoch, initial=self.batch, desc=label, unit="step", leave=False)
        results: list[StepResult] = []
        names: list[list[str]] = []
        began, seen = time.perf_counter(), 0
        every_step = getattr(self.scheduler, "every_step", False)
        for data in self._until_stopped(batches):
            self.stop.ask()
            rate = self.get_current_lr()
            result = self.step(data["img"], data["pid"])
            results.append(result)
            names.append(list(data["impath"]))
            self.batch += 1
            seen += len(data["pid"]) * self.group.world_size
            last = self.batch == self.steps_per_epoch
            if self.device.type == "cpu":
                self._check([result], names[-1:])
            if self.batch % self.print_freq == 0 or last:
                self._check(results, names)
                elapsed = time.perf_counter() - began
                self._note(results, rate, seen / elapsed, progress)
                results, names, began, seen = [], [], time.perf_counter(), 0
            if every_step:
                self.scheduler.step()
            if progress is not None:
                progress.update()
            stopping = self.stop.agreed()
            if last:
                self.epoch, self.batch, self.evaluated = self.epoch + 1, 0, False
                if self.scheduler is not None and not every_step:
                    self.scheduler.step()
            if stopping:
                self._leave()
            if self.save_steps and self.global_step % self.save_steps == 0 and not last:
                self._save()
            if last:
                break
        if progress is not None:
            progress.close()

    def _until_stopped(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches; where a signal to the whole job ended the loading processes too, leave as asked."""
        try:
            yield from batches
        except ChildProcessError:
            time.sleep(0.2)  # the signal that ended them may reach this process a moment later
            if not self.stop.requested:
                raise
            self._leave()

    def _leave(self) -> NoReturn:
        self._save(final=True)
        raise StoppedError(
            f"stopped as asked after step {self.global_step} (epoch {self.epoch + 1}); go on with train.resume auto "
            f"from {self.folder}"
        )

    def _note(self, results: list[StepResult], rate: float, images_per_s: float, progress: Any) -> None:
        """Read the numbers of the last steps from the device, all at once, and pass them on."""
        means = torch.stack([torch.stack(result) for result in results]).mean(0).tolist()
        values = dict(zip(StepResult._fields, means, strict=True))
        values = {**values, "lr": rate, "images_per_s": round(images_per_s, 2), "epoch": self.epoch + 1}
        self.journal.write("train", self.global_step, values)
        line = f"loss {values['loss']:.3f} acc {values['accuracy']:.0%} {images_per_s:.0f} images/s"
        if progress is not None:
            left = (self.max_epoch * self.steps_per_epoch - self.global_step) * self.train_batch / images_per_s
            progress.set_postfix_str(f"{line}, {_duration(left)} left in all")
        elif self.group.main:
            logger.info("epoch %d/%d step %d: %s", self.epoch + 1, self.max_epoch, self.batch, line)

    @property
    def train_batch(self) -> int:
        """Images per step over all processes."""
        return self.sampler.batch if self.sampler is not None else int(self.train_loader.batch_size)

    def _check(self, results: list[StepResult], names: list[list[str]]) -> None:
        """Stop at the first step that was not finite."""
        for place, (result, files) in enumerate(zip(results, names, strict=True)):
            if not self.step.failed(result):
                continue
            self.batch -= len(results) - place
            step, saved = self.global_step, None
            if self.device.type == "cpu":
                self.step.undo()
                saved = self._save()
            good = saved or checkpoint.newest(self.folder) or "none (no checkpoint had been made)"
            raise NonFiniteError(
                f"step {step + 1} (epoch {self.epoch + 1}) is not finite: loss {result.loss.item()}, gradient norm "
                f"{result.gradient_norm.item()}. Last good state: {good}. Its images: {', '.join(files)}. "
                "Lower optim.lr, lengthen the warm-up, or use train.precision fp32"
            )

    def test(self, rerank: bool = False, best: bool = False, **unused: Any) -> dict[str, dict[str, float]]:
        """Evaluate by appearance on held-out training identities, if there are any, and on every target.

        Args:
            rerank: rank by k-reciprocal re-ranking.
            best: remember the weights if they are the best so far.
            unused: none are known; for torchreid's signature.

        Returns:
            Data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1].

        Raises:
            TypeError: a keyword that this engine does not have.
        """
        if unused:
            raise TypeError(f"DFRSTEngine.test has no {', '.join(unused)}")
        validation = getattr(self.datamanager, VALIDATION, None)
        sets = {**({VALIDATION: validation} if validation else {}), **self.test_loader}
        drawn = next(iter(self.test_loader), None) if best and self.pictures and self.group.main else None
        metrics = {name: self._score(name, parts, rerank, draw=name == drawn) for name, parts in sets.items()}
        for name, values in metrics.items():
            if self.group.main:
                words = [f"{key} {value:.1%}" for key, value in values.items()]
                logger.info("%s after epoch %d: %s", name, self.epoch, ", ".join(words))
            if best:
                self.journal.write(name, self.global_step, {**values, "epoch": self.epoch})
        if best:
            self._keep_best(metrics)
        return metrics

    def _score(self, name: str, parts: Mapping[str, Any], reranked: bool, draw: bool) -> dict[str, float]:
        query, gallery = (self.embed(parts[part]) for part in ("query", "gallery"))
        first, second = normalise(query.embedding), normalise(gallery.embedding)
        far = rerank(first, second) if reranked else distance(first, second)
        scores = evaluate(far, query.identity, gallery.identity, query.camera, gallery.camera)
        if draw:
            self._draw(name, query, gallery, far)
        return {"mAP": scores.mAP, "mINP": scores.mINP, **{f"rank{r}": scores.rank(r) for r in self.ranks}}

    def _draw(self, name: str, query: Embedded, gallery: Embedded, far: np.ndarray) -> None:
        folder, label = self.save_dir / "pictures", f"{name}-epoch-{self.epoch:03d}"
        title = f"{name} after epoch {self.epoch}, by appearance"
        ranking = ranking_picture(folder / f"{label}-ranking.png", query, gallery, far, title)
        self.journal.picture(f"{name}/ranking", self.global_step, ranking)
        transform = self.datamanager.transform_te
        looks = attention_picture(folder / f"{label}-attention.png", self.model, query, transform)
        if looks is not None:
            self.journal.picture(f"{name}/attention", self.global_step, looks)

    def embed(self, loader: Any) -> Embedded:
        """Embeddings of a test loader's images, with this run's precision; see ``embedding.embed``."""
        bar = self.bar if self.group.main else None
        return embed(self.model, loader, self.device, self.precision, self.channels_last, bar)

    def _keep_best(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        name = next(iter(self.test_loader), "") if self.best_on == "test" else self.best_on
        if name not in metrics or metrics[name]["mAP"] <= self.best.get("mAP", -1.0):
            return
        self.best = {"mAP": metrics[name]["mAP"], "step": self.global_step, "epoch": self.epoch, "chosen_on": name}
        if self.group.main:
            path = self._save()
            if path is not None:
                checkpoint.copy(path, self.folder / "best.pt")
                self._export("best.safetensors")

    def _export(self, name: str) -> None:
        if self.group.main:
            about = {**self.describe, "step": self.global_step, "epoch": self.epoch}
            checkpoint.export(self.save_dir / name, self.model, about)

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable-{self.group.rank}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OSError(f"train.save_dir {self.save_dir} cannot be written ({error}): choose another one") from error

    def _state(self) -> dict[str, Any]:
        return {
            # the names torchreid's resume_from_checkpoint reads
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "epoch": self.epoch,
            "rank1": float(self.best.get("mAP", 0.0)),
            # and what it would forget
            "batch": self.batch,
            "steps_per_epoch": self.steps_per_epoch,
            "evaluated": self.evaluated,
            "best": dict(self.best),
            "scaler": self.step.scaler.state_dict(),
            "random": checkpoint.random_state(),
            "seed": self.sampler.seed if self.sampler is not None else None,
            "identities": list(getattr(self.datamanager, "identities", [])),
            "describe": self.describe,
        }

    def _save(self, final: bool = False) -> Path | None:
        """Write a checkpoint and delete those no longer wanted.

        A disk that is full is said aloud and does not end training, unless nothing could be saved at the end.
        """
        if not self.group.main:
            return None
        path = checkpoint.step_path(self.folder, self.global_step)
        try:
            checkpoint.save(path, self._state())
        except OSError as error:
            if final:
                raise
            logger.error("%s; the checkpoint before it stays, training goes on and tries again at the next one", error)
            return None
        each = self.keep_freq * self.steps_per_epoch
        keep = set(range(0, self.global_step + 1, each)) if each else set()
        checkpoint.prune(self.folder, keep)
        return path

    def _resume(self, resume: str | None) -> Mapping[str, Any] | None:
        """Take over the state of a checkpoint; returns the state of the random generators, to be set later."""
        path = checkpoint.newest(self.folder) if resume == "auto" else resume and Path(resume)
        if path is None or not path:
            if resume is None and checkpoint.all_steps(self.folder):
                raise ValueError(
                    f"{self.folder} holds the checkpoints of an earlier run: go on with it (train.resume auto), or "
                    "choose another train.save_dir"
                )
            return None
        state = checkpoint.load(path)
        if state["steps_per_epoch"] != self.steps_per_epoch or (
            self.sampler is not None
            and (state["seed"], state["identities"]) != (self.sampler.seed, self.datamanager.identities)
        ):
            raise ValueError(
                f"{path} was made with other data, batch size or seed ({state['steps_per_epoch']} steps an epoch of "
                f"{len(state['identities'])} identities, seed {state['seed']}; now {self.steps_per_epoch}, "
                f"{len(getattr(self.datamanager, 'identities', []))}, {getattr(self.sampler, 'seed', None)}): a "
                "resumed run needs the same"
            )
        _compare(state["describe"].get("config", {}), self.describe.get("config", {}))
        checkpoint.set_weights(self.model, state["state_dict"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.evaluated, self.best = state["evaluated"], state["best"]
        logger.info("resumed from %s: epoch %d, step %d", path, self.epoch + 1, self.global_step)
        return state["random"]


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for section in sorted({*before, *now}):
        old, new = before.get(section, {}), now.get(section, {})
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and (section, key) != ("train", "resume"):
                logger.warning("resumed with %s.%s %r, it was %r", section, key, new.get(key), old.get(key))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60:02d} s"
    )


def _out_of_memory(error: Exception) -> str:
    return (
        f"memory ran out ({str(error).splitlines()[0]}): lower data.batch_size_train (or batch_size_test), the image "
        "size, or data.workers, or use train.precision bf16"
    )
