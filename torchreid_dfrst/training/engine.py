"""torchreid's engine with the paper's loss, several processes, mixed precision, and a state to resume from."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torchreid
from torch import nn
from torch.optim import Optimizer

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.processes import from_main, of_all, raise_together
from torchreid_dfrst.training import checkpoint
from torchreid_dfrst.training.checkpoint import Checkpoints
from torchreid_dfrst.training.configuration import VALIDATION, RunOptions
from torchreid_dfrst.training.embed_images import Embedded
from torchreid_dfrst.training.folder_lock import alone
from torchreid_dfrst.training.interrupt import MARKER, StoppedError, ended_together
from torchreid_dfrst.training.journal import Journal, ProgressLine
from torchreid_dfrst.training.memory import explained
from torchreid_dfrst.training.resuming import digest, load_states, optimizer_kind, refuse_other_run, warn_of_changes
from torchreid_dfrst.training.step import NonFiniteError, StepResult, TrainStep
from torchreid_dfrst.training.validation import EvaluatingEngine, draw, words

logger = logging.getLogger(__name__)


class DFRSTEngine(EvaluatingEngine):
    """Trains and evaluates like ``torchreid.engine.ImageTripletEngine``.

    Args:
        datamanager: ours, with which a run resumes at any step, bit for bit; or torchreid's, whose batches are then
            drawn anew, for a single process.
        model: gives ``(logits, features)`` in training and ``(B, D)`` in evaluation.
        optimizer: over its parameters.
        scheduler: torchreid's (advanced every epoch), ours (every step), or None.
        loss: the criterion; None for the paper's.
        use_gpu: train on the GPU if there is one.
        describe: what is stored with checkpoints and exported weights, JSON types.

    Attributes:
        best: mAP, step, ... of the best weights so far, as ``RunOptions.best_on`` chooses them; empty without any.
        first_step: optimiser steps taken before this run resumed.
        finished: what ``result.json`` says, where ``run`` found nothing left to do; else None.

    Raises:
        ValueError: the data manager does not share its images among the processes there are; ``describe`` is no JSON.
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
        super().__init__(datamanager, model, use_gpu)
        self.optimizer, self.scheduler, self.loss = optimizer, scheduler, loss or DFRSTLoss()
        self.register_model("model", model, optimizer, scheduler)
        try:
            # what only looks like a number or a list, as NumPy's do, becomes one
            self.describe = json.loads(json.dumps(dict(describe or {})))
        except TypeError as error:
            raise ValueError(f"describe takes JSON types alone: {error}") from error
        self.sampler = getattr(datamanager, "sampler", None)
        self.steps_per_epoch = len(self.train_loader)
        self.data: dict[str, Any] = {"steps_per_epoch": self.steps_per_epoch}
        if self.sampler is not None:
            self.data |= {
                "identities": list(datamanager.identities),
                "seed": self.sampler.seed,
                "images": digest(self.train_loader.dataset.items),
                "summary": datamanager.summary,
            }
        self.step: TrainStep
        self.batch, self.evaluated, self.first_step = 0, True, 0
        self.best: dict[str, Any] = {}
        self.finished: dict[str, Any] | None = None
        # the steps since the last line of numbers, and the files in each
        self.pending: list[tuple[StepResult, list[str]]] = []

    @property
    def global_step(self) -> int:
        """Optimiser steps taken so far."""
        return int(self.epoch * self.steps_per_epoch + self.batch)

    def state_dict(self) -> dict[str, Any]:
        """Everything from which training goes on bit for bit; called in a run, by all processes together."""
        return {
            # the names torchreid's resume_from_checkpoint reads
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "epoch": self.epoch,
            "rank1": float(self.best.get("rank1", 0.0)),
            # and what it would forget
            "batch": self.batch,
            "evaluated": self.evaluated,
            "best": dict(self.best),
            "scaler": self.step.scaler.state_dict(),
            "random": of_all(checkpoint.random_state()),
            "optimizer_kind": optimizer_kind(self.optimizer),
            "data": self.data,
            "describe": self.describe,
        }

    def load_state_dict(self, state: Mapping[str, Any], where: str = "the state") -> None:
        """Go on from what ``state_dict`` gave, with the settings of this run's optimiser and scheduler.

        Raises:
            ValueError: ``where``, its file, is of a run on other data, of another network or with another optimiser.
        """
        refuse_other_run(state, self.data, self.optimizer, where)
        warn_of_changes(state["describe"].get("config", {}), self.describe.get("config", {}))
        checkpoint.set_weights(self.model, state["state_dict"], where)
        load_states(self.optimizer, self.scheduler, state["optimizer"], state["scheduler"])
        if state["scaler"]:  # empty unless the run was in fp16
            self.step.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.evaluated, self.best = state["evaluated"], dict(state["best"])
        # put back once the loader has started, which may draw from them; there may be more processes now
        self.random = state["random"][min(self.group.rank, len(state["random"]) - 1)]

    def run(
        self,
        *torchreids: Any,
        bar: Callable[..., Any] | None = None,
        started: Callable[[], None] | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """Train, evaluate by appearance with the junk rule, save; the last weights are the result.

        Args:
            torchreids: keywords of ``RunOptions`` in its order, which begins with torchreid's.
            bar: progress bar, such as ``tqdm.tqdm``; None logs a line instead.
            started: called in process 0 once nothing can be refused any more and ``save_dir`` is this run's.
            options: keywords of ``RunOptions``.

        Returns:
            The last evaluation: data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1].

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; the state is saved, and ``save_dir/stopped`` says so.
            NonFiniteError: the loss or a gradient is not finite, or under fp16 none was in the whole run.
            KeyError, ValueError: unusable options, or a checkpoint that does not belong to this run.
            OSError: ``save_dir`` is another run's or cannot be written, memory ran out, or a process died.
        """
        self.options, self.bar, self.finished = RunOptions(*torchreids, **options), bar, None
        if self.options.precision == "fp16" and self.device.type == "cpu" and self.group.main:
            logger.warning("train.precision is fp16, which a CPU imitates, many times slower than fp32: bf16 is faster")
        if self.options.test_only:
            return self._test()
        with alone(self.options.save_dir):
            self._prepare()
            if self.finished is not None:
                return dict(self.finished["metrics"])
            self.journal = Journal(None)
            from_main(lambda: self._begin(started))
            with ended_together(), explained(), self.stop.listening(), contextlib.closing(self.journal):
                return self._train()

    def _prepare(self) -> None:
        """Everything that can refuse a run, and the state it goes on from."""
        options = self.options
        self.save_dir = Path(options.save_dir)
        self.layers = options.layers([name for name, _ in self.model.named_children()], self.group.world_size)
        self.epoch, self.batch, self.evaluated, self.best, self.random = options.start_epoch, 0, True, {}, None
        self.checkpoints = Checkpoints(self.save_dir / "checkpoints")
        how = options.precision, options.channels_last, options.compile
        self.step = TrainStep(self.model, self.optimizer, self.loss, self.device, *how, self.group)
        found = from_main(lambda: self.checkpoints.find(options.resume))
        if found is not None:
            path, state = found
            self.load_state_dict(state, str(path))
            epoch = min(self.epoch + 1, options.max_epoch)
            logger.info("resumed from %s: epoch %d, step %d", path, epoch, self.global_step)
            best_is_there, self.finished = from_main(self._look_back)
            if self.best and not best_is_there:
                logger.warning("the best weights so far are not there: the next evaluation's will be")
                self.best = {}
        self.first_step = self.global_step

    def _look_back(self) -> tuple[bool, dict[str, Any] | None]:
        """Are the best weights in the resumed run's folder, and what does it say of its end?"""
        best_is_there = checkpoint.best_is_there(self.save_dir, self.best)
        result = checkpoint.finished_result(self.save_dir, self.global_step)
        if result is None or self.epoch < self.options.max_epoch:
            return best_is_there, None
        (self.save_dir / MARKER).unlink(missing_ok=True)
        logger.info(
            "%s is finished (epoch %d, step %d): nothing is trained, evaluated or written again. Raise train.max_epoch "
            "to train longer, or evaluate %s with dfrst extract and dfrst evaluate",
            self.save_dir, self.epoch, self.global_step, self.save_dir / checkpoint.WEIGHTS,
        )  # fmt: skip
        for name, values in result["metrics"].items():
            logger.info("%s after epoch %d: %s", name, self.epoch, words(values))
        return best_is_there, result

    def _begin(self, started: Callable[[], None] | None) -> None:
        if self.options.best_on == VALIDATION and not getattr(self.datamanager, VALIDATION, None):
            logger.info(
                "the weights of the last epoch will be the result; to keep the best ones as well, hold out training "
                "identities to choose on (data.validation_identities)"
            )
        (self.save_dir / MARKER).unlink(missing_ok=True)
        repeats = not self.evaluated and self.options.evaluation_due(self.epoch)
        self.journal = Journal(self.save_dir, self.global_step, repeats)
        if started is not None:
            started()

    def _train(self) -> dict[str, dict[str, float]]:
        options = self.options
        metrics: dict[str, dict[str, float]] | None = None
        while True:
            ended = self.epoch >= options.max_epoch
            if ended:
                self.step.refuse_untrained(self.global_step)
            if not self.evaluated:
                if options.evaluation_due(self.epoch):
                    metrics = self.evaluate(self._write_scores)
                    self._keep_best(metrics)
                self.evaluated = True
            if ended:
                break
            self._train_epoch()
            if self.stop.agree()[0]:
                self._leave()
            if options.checkpoint_due(self.epoch):
                self._save(final=self.epoch == options.max_epoch)
        metrics = self.evaluate() if metrics is None else metrics
        from_main(lambda: self._export(checkpoint.WEIGHTS))
        return metrics

    def _train_epoch(self) -> None:
        """Train to the end of the current epoch, from the current batch on."""
        options = self.options
        self.model.train()
        if self.layers and self.epoch < options.fixbase_epoch:
            logger.info("epoch %d trains %s alone", self.epoch + 1, ", ".join(self.layers))
            torchreid.utils.open_specified_layers(self.model, self.layers)
        elif self.layers:
            torchreid.utils.open_all_layers(self.model)
        if self.sampler is not None:
            self.sampler.seek(self.epoch, self.batch)
        batches = iter(self.train_loader)
        if self.random is not None:
            # torchreid's loader draws from the generators as it starts
            checkpoint.set_random_state(self.random)
            self.random = None
        label = f"epoch {self.epoch + 1}/{options.max_epoch}"
        self.progress = ProgressLine(self.journal, label, self.steps_per_epoch, self.batch, self.bar, self.group.main)
        self.pending = []
        every_step = getattr(self.scheduler, "every_step", False)
        for data in self._until_stopped(batches):
            self.rate = self.get_current_lr()
            self.pending.append((self.step(data["img"], data["pid"]), list(data["impath"])))
            self.batch += 1
            self.progress.step(len(data["pid"]) * self.group.world_size)
            last = self.batch == self.steps_per_epoch
            if self.batch % options.print_freq == 0 or last:
                self._note()
            if every_step:
                self.scheduler.step()
            if last:
                self.epoch, self.batch, self.evaluated = self.epoch + 1, 0, False
                if self.scheduler is not None and not every_step:
                    self.scheduler.step()
                break
            if options.save_steps and self.global_step % options.save_steps == 0:
                self._save()
        self.progress.close()

    def _note(self) -> None:
        """Show and write down the steps since the last time, if they were finite."""
        self._check(self.pending)
        batch = self.sampler.batch if self.sampler is not None else int(self.train_loader.batch_size)
        left = (self.options.max_epoch * self.steps_per_epoch - self.global_step) * batch
        self.progress.note([result for result, _ in self.pending], self.global_step, self.rate, self.epoch + 1, left)
        self.pending = []

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
            self.agree(failure)
            if data is not None:
                yield data

    def agree(self, failure: Exception | None) -> None:
        """As the evaluating half's; what has been trained is saved before this raises."""
        if isinstance(failure, ChildProcessError):
            time.sleep(0.2)  # the signal that ended loading processes too may reach this one a moment later
        asked, failed = self.stop.agree(failure is not None)
        if asked:
            self._leave()
        # an evaluation comes after a save
        if failed and self.evaluated and self.global_step > self.first_step:
            try:
                self._save(final=True)
            except NonFiniteError:
                raise
            except (OSError, ValueError) as error:
                logger.error("the run ends, and what it has trained could not be saved: %s", error)
        if failed:
            raise_together(failure)

    def _leave(self) -> NoReturn:
        """Save and end the run; rank 0 may still be writing when the others are here."""
        self._save(final=True)
        if self.pending:
            self._note()
        marker, after = self.save_dir / MARKER, f"after step {self.global_step}"
        # all wait for process 0: torchrun ends the others soon after the first has left
        from_main(lambda: marker.write_text(f"{after}\n", encoding="utf-8"))
        raise StoppedError(
            f"stopped as asked {after} (epoch {min(self.epoch + 1, self.options.max_epoch)}); go on with "
            f"train.resume auto from {self.checkpoints.folder}"
        )

    def _check(self, steps: list[tuple[StepResult, list[str]]]) -> None:
        """End the run at the first step that was not finite in any process; called by all of them at once."""
        if not steps:
            return
        first = next((place for place, (result, _) in enumerate(steps) if self.step.failed(result)), None)
        places = [place for place in of_all(first) if place is not None]
        if not places:
            return
        result, names = steps[min(places)]
        norm = result.gradient_norm.item()
        shares = of_all((result.loss.item(), names))
        loss = sum(share for share, _ in shares) / len(shares)
        self.batch -= len(steps) - min(places)
        self.pending = []
        try:
            good = from_main(self._newest)
        except (OSError, ValueError) as error:
            good = f"unknown ({error})"
        raise NonFiniteError(
            f"step {self.global_step + 1} (epoch {self.epoch + 1}) is not finite: loss {loss}, gradient norm {norm}. "
            f"Last good state: {good}. Its images: {', '.join(file for _, files in shares for file in files)}. "
            "Lower optim.lr, lengthen the warm-up, or use train.precision fp32"
        )

    def _newest(self) -> str:
        found = checkpoint.newest(self.checkpoints.folder)
        return str(found[0]) if found else "none (no checkpoint had been made)"

    def _write_scores(self, name: str, values: Mapping[str, float], query: Embedded, gallery: Embedded) -> None:
        self.journal.write(name, self.global_step, {**values, "epoch": self.epoch})
        if not self.options.pictures or name != next(iter(self.test_loader)):
            return
        transform = self.datamanager.transform_te
        try:
            drawn = draw(self.save_dir, name, self.epoch, query, gallery, self.options, self.model, transform)
            for kind, path in drawn.items():
                self.journal.picture(f"{name}/{kind}", self.global_step, path)
        except Exception as error:
            # process 0 draws alone, and a picture is not worth a run
            logger.error("no pictures of %s after epoch %d (%s): training goes on", name, self.epoch, error)

    def _keep_best(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        name = next(iter(self.test_loader), "") if self.options.best_on == "test" else self.options.best_on
        if name not in metrics or metrics[name]["mAP"] <= self.best.get("mAP", -1.0):
            return
        before, values = self.best, {key: metrics[name].get(key, 0.0) for key in ("mAP", "rank1")}
        self.best = {**values, "step": self.global_step, "epoch": self.epoch, "chosen_on": name}
        if self._save() is None or not from_main(self._write_best):
            self.best = before

    def _write_best(self) -> bool:
        try:
            self._export("best.safetensors", best=self.best)
        except OSError as error:
            logger.error("the best weights so far could not be kept (%s): training goes on", error)
            return False
        return True

    def _export(self, name: str, **more: Any) -> None:
        about = {**self.describe, "step": self.global_step, "epoch": self.epoch, **more}
        checkpoint.export(self.save_dir / name, self.model, about)

    def _save(self, final: bool = False) -> Path | None:
        """Save in process 0; called by all processes together, which end together where it must not fail."""
        self._check(self.pending)
        state, each = self.state_dict(), self.options.keep_freq * self.steps_per_epoch
        return from_main(lambda: self.checkpoints.save(self.global_step, state, each, final))
