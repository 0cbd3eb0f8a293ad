"""What a run that goes on takes from a checkpoint, and what of its own."""

import errno
import json
import os
import random
import shutil
import signal
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torchreid
from networks import TinyNet
from processes import together
from runs import DroppingNet, engine, newest
from safetensors.torch import load_file
from test_survival import equal, state
from tiny import write_tiny_veri

from torchreid_dfrst import processes
from torchreid_dfrst.models.weights import digest
from torchreid_dfrst.training import build_optimizer, build_scheduler, checkpoint
from torchreid_dfrst.training.checkpoint import Checkpoints
from torchreid_dfrst.training.configuration import RunOptions
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.interrupt import StoppedError
from torchreid_dfrst.training.journal import Journal


def steps(folder):
    return [int(path.stem[5:]) for path in checkpoint.all_steps(folder)]


def go(root, folder, **options):
    made = engine(root, network=TinyNet)
    made.run(save_dir=str(folder), **{"max_epoch": 1, "pictures": False, "resume": "auto", **options})
    return made


def test_torn_checkpoints_of_later_steps_do_not_push_out_the_whole_ones(tmp_path, caplog):
    for step in (11, 12):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {})
    for step in (15, 16):
        checkpoint.step_path(tmp_path, step).write_bytes(b"torn")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.find("auto")[0] == checkpoint.step_path(tmp_path, 12)
    assert checkpoints.save(13, {}) == checkpoint.step_path(tmp_path, 13) == checkpoints.find("auto")[0]
    assert steps(tmp_path) == [12, 13]
    assert "step-0000000016.pt: the run went on without it and has saved step 13" in caplog.text


def test_a_start_from_the_beginning_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    assert Checkpoints(tmp_path).find("auto") is None
    assert f"{tmp_path} holds no checkpoint: starting from the beginning" in caplog.text


def test_checkpoints_of_which_none_is_whole_are_not_replaced_by_a_new_run(tmp_path):
    checkpoint.step_path(tmp_path, 5).write_bytes(b"torn")
    with pytest.raises(ValueError, match="holds checkpoints and none that is whole: to start from the beginning"):
        Checkpoints(tmp_path).find("auto")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "Stale file handle"),
        (MemoryError(), "memory ran out while .*0008.pt was read"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out while .*0008.pt was read"),
    ],
)
@pytest.mark.parametrize("where", [(zipfile.ZipFile, "testzip"), (torch, "load")], ids=["verify", "load"])
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_called_torn(where, error, said, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise error

    for step in (4, 8):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {})
    monkeypatch.setattr(*where, fails)
    with pytest.raises(OSError, match=said):
        Checkpoints(tmp_path).find("auto")
    assert steps(tmp_path) == [4, 8]


def test_a_run_that_goes_on_from_an_earlier_checkpoint_leaves_the_later_ones(tiny_veri, tmp_path):
    go(tiny_veri, tmp_path, max_epoch=4, keep_freq=1)
    folder = tmp_path / "checkpoints"
    assert steps(folder) == [4, 8, 12, 16]
    made = engine(tiny_veri, network=TinyNet)
    forward = made.model.forward

    def stop_in_the_second_step(x):
        if made.batch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(x)

    made.model.forward = stop_in_the_second_step
    with pytest.raises(StoppedError, match="after step 6"):
        made.run(str(tmp_path), max_epoch=4, pictures=False, resume=str(checkpoint.step_path(folder, 4)))
    assert newest(folder) == checkpoint.step_path(folder, 6)
    assert steps(folder) == [4, 6]


def test_ctrl_c_in_the_last_step_saves_and_leaves(tiny_veri, tmp_path):
    class Interrupted(TinyNet):
        def forward(self, x):
            if self.training and made.batch == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(x)

    made = engine(tiny_veri, network=Interrupted)
    with pytest.raises(StoppedError, match=r"after step 4 \(epoch 1\)"):
        made.run(str(tmp_path), max_epoch=1, pictures=False)
    assert steps(tmp_path / "checkpoints") == [4] and (tmp_path / "stopped").exists()


@pytest.mark.parametrize("step", [0, 7])
def test_curves_of_an_attempt_that_was_left_are_purged(step, tmp_path, monkeypatch):
    writer = Mock()
    monkeypatch.setattr("torchreid_dfrst.training.journal.SummaryWriter", writer)
    Journal(tmp_path, step).close()
    assert writer.call_args.kwargs["purge_step"] == step + 1


def test_an_evaluation_that_is_repeated_is_in_the_journal_once(tmp_path):
    for repeats in (False, True):
        journal = Journal(tmp_path, 4 if repeats else 0, repeats=repeats)
        if not repeats:
            journal.write("train", 3, {"loss": 3.0})
            journal.write("train", 4, {"loss": 4.0})
        journal.write("veri776", 4, {"mAP": 0.5})
        journal.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 3), ("train", 4), ("veri776", 4)]


def test_every_kth_epoch_is_kept_whatever_the_others_are(tiny_veri, tmp_path):
    go(tiny_veri, tmp_path, max_epoch=7, save_freq=2, keep_freq=3)
    assert steps(tmp_path / "checkpoints") == [4 * epoch for epoch in (3, 6, 7)]


def with_optimiser(root, schedule, **options):
    made = engine(root, network=TinyNet)
    optimizer = build_optimizer(made.model, **options)
    return DFRSTEngine(made.datamanager, made.model, optimizer, schedule(optimizer), use_gpu=False)


def ours(optimizer):
    return build_scheduler(optimizer, 4, stepsize=[2, 3], warmup_epoch=1.5)


def torchreids(optimizer):
    return torchreid.optim.build_lr_scheduler(optimizer, lr_scheduler="single_step", stepsize=1)


@pytest.mark.parametrize("schedule", [ours, torchreids, lambda optimizer: None], ids=["ours", "torchreid's", "none"])
def test_the_optimiser_goes_on_with_the_settings_of_the_new_run(schedule, tiny_veri, tmp_path, caplog):
    options = {"save_dir": str(tmp_path / "a"), "pictures": False, "resume": "auto"}
    with_optimiser(tiny_veri, schedule, lr=1e-3).run(max_epoch=1, **options)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = state(tmp_path / "a")["state_dict"]
    with_optimiser(tiny_veri, schedule, lr=1e-3).run(max_epoch=2, **options)
    assert "optimiser goes on" not in caplog.text
    options["save_dir"] = str(tmp_path / "b")
    new = {"lr": 1e-6, "weight_decay": 0.5, "adam_beta1": 0.5}
    with_optimiser(tiny_veri, schedule, **new).run(max_epoch=2, **options)
    for words in (
        "lr 1e-06, it had 0.001",
        "weight_decay 0.5, it had 0.0005",
        "betas (0.5, 0.999), it had (0.9, 0.999)",
    ):
        assert f"goes on with {words}" in caplog.text
    same, other = state(tmp_path / "a"), state(tmp_path / "b")
    [one], [two] = (found["optimizer"]["param_groups"] for found in (same, other))
    assert (two["weight_decay"], two["betas"]) == (0.5, (0.5, 0.999))
    # our warm-up starts at a rate of its own, so that the two differ by a little less than their tops
    assert two["lr"] == pytest.approx(one["lr"] / 1000, rel=0.01)
    name = "body.0.weight"
    far, near = ((found["state_dict"][name] - before[name]).abs().max() for found in (same, other))
    assert 0 < near < 2e-5 < 2e-4 < far, "from the first step on"


@pytest.mark.parametrize("optim", ["sgd", "rmsprop", "radam", "amsgrad"])
def test_another_optimiser_is_refused(optim, tiny_veri, tmp_path):
    options = {"save_dir": str(tmp_path), "pictures": False, "resume": "auto"}
    with_optimiser(tiny_veri, ours).run(max_epoch=1, **options)
    with pytest.raises(ValueError, match=r"was made with the optimiser Adam and this run has .*, which cannot go on"):
        with_optimiser(tiny_veri, ours, optim=optim).run(max_epoch=2, **options)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    path = checkpoint.save(tmp_path / "a.pt", {"format": "torchreid_dfrst checkpoint 1"})
    with pytest.raises(ValueError, match=r"a\.pt is not a checkpoint of this package and version: to start from bare"):
        checkpoint.load(path)


def test_a_checkpoint_is_read_once_when_a_run_resumes(tiny_veri, tmp_path, monkeypatch):
    go(tiny_veri, tmp_path)
    made, opened, open_ = engine(tiny_veri, network=TinyNet), [], open

    def counted(file, *args, **options):
        opened.append(str(file))
        return open_(file, *args, **options)

    for where in ("builtins.open", "io.open"):
        monkeypatch.setattr(where, counted)
    made.options = RunOptions(save_dir=str(tmp_path), max_epoch=2, resume="auto")
    made._prepare()
    monkeypatch.undo()
    assert made.global_step == 4
    assert [Path(file).name for file in opened if file.endswith(".pt")] == ["step-0000000004.pt"]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_checkpoint_from_elsewhere_does_not_go_on_in_the_folder_of_another_run(checkpoints, tiny_veri, tmp_path):
    for name in ("run", "other"):
        go(tiny_veri, tmp_path / name)
    (tmp_path / "run" / "result.json").write_text('{"metrics": {"veri776": {"mAP": 0.123}}, "step": 4}')
    if not checkpoints:
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    path = str(checkpoint.step_path(tmp_path / "other" / "checkpoints", 4))
    with pytest.raises(ValueError, match=r"other/\S+\.pt does not lie in \S+ and \S+/run holds an earlier run: go on"):
        go(tiny_veri, tmp_path / "run", resume=path)
    assert go(tiny_veri, tmp_path / "new", resume=path, max_epoch=2).global_step == 8


def test_every_setting_of_the_optimiser_and_of_torchreids_scheduler_is_the_new_runs(tiny_veri, tmp_path, caplog):
    def steps_of(gamma, stepsize):
        return lambda optimizer: torchreid.optim.build_lr_scheduler(
            optimizer, lr_scheduler="multi_step", stepsize=stepsize, gamma=gamma
        )

    options = {"save_dir": str(tmp_path), "pictures": False, "resume": "auto"}
    with_optimiser(tiny_veri, steps_of(0.1, [5]), optim="sgd").run(max_epoch=1, **options)
    made = with_optimiser(tiny_veri, steps_of(0.5, [2]), optim="sgd", sgd_nesterov=True)
    before = made.get_current_lr()
    made.run(max_epoch=2, **options)
    assert (
        made.optimizer.param_groups[0]["nesterov"] is True and "goes on with nesterov True, it had False" in caplog.text
    )
    assert (
        made.get_current_lr() == pytest.approx(before / 2)
        and "the scheduler goes on with gamma 0.5, it had 0.1" in caplog.text
    )


class Drawing(TinyNet):
    """Draws from Python's and from NumPy's generator in training."""

    def forward(self, x):
        if self.training:
            x = x * (1 + random.random()) + np.random.random()  # noqa: NPY002
        return super().forward(x)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_bit_for_bit_with_pythons_and_numpys_generators(precision, tiny_veri, tmp_path):
    for name, epochs in {"whole": [2], "rested": [1, 2]}.items():
        for epoch in epochs:
            made = engine(tiny_veri, network=Drawing)
            random.seed(epoch)
            np.random.seed(epoch)  # noqa: NPY002
            if name == "whole":
                random.seed(1)
                np.random.seed(1)  # noqa: NPY002
            made.run(str(tmp_path / name), max_epoch=epoch, pictures=False, resume="auto", precision=precision)
    whole, rested = state(tmp_path / "whole"), state(tmp_path / "rested")
    assert equal(whole["state_dict"], rested["state_dict"]) and equal(whole["random"], rested["random"])


def test_the_scale_of_half_precision_is_restored(tiny_veri, tmp_path):
    go(tiny_veri, tmp_path, precision="fp16")
    path = newest(tmp_path / "checkpoints")
    content = checkpoint.load(path)
    content["scaler"]["scale"] = 8.0
    checkpoint.save(path, content)
    go(tiny_veri, tmp_path, precision="fp16", max_epoch=2)
    assert state(tmp_path)["scaler"]["scale"] == 8.0


def evaluations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [line["step"] for line in lines if line["kind"] == "veri776"]


def test_an_evaluation_that_is_not_repeated_stays_in_the_journal(tiny_veri, tmp_path):
    go(tiny_veri, tmp_path, max_epoch=1)
    assert evaluations(tmp_path) == [4]
    go(tiny_veri, tmp_path, max_epoch=2)
    assert evaluations(tmp_path) == [4, 8], "one was due at the end of the shorter run alone"


def test_a_second_run_without_a_checkpoint_knows_no_best_of_the_first(tiny_veri, tmp_path):
    made = go(tiny_veri, tmp_path / "a", **ON_TEST)
    saved = state(tmp_path / "a")
    assert saved["rank1"] == made.best["rank1"] and made.best["step"] == 4
    made.run(str(tmp_path / "b"), max_epoch=1, pictures=False)
    assert made.best == {}


def test_half_precision_goes_on_from_single_precision_and_back(tiny_veri, tmp_path):
    for epoch, precision in enumerate(["fp32", "fp16", "bf16"], start=1):
        assert go(tiny_veri, tmp_path, max_epoch=epoch, precision=precision).global_step == 4 * epoch
        assert bool(state(tmp_path)["scaler"]) is (precision == "fp16")


def test_one_training_image_less_is_other_data(tmp_path):
    root = tmp_path / "data"
    write_tiny_veri(root / "veri776")
    few = {"batch_size_train": 6, "num_instances": 2}
    made = engine(root, network=TinyNet, **few)
    made.run(save_dir=str(tmp_path / "run"), max_epoch=1, pictures=False)
    path = sorted((root / "veri776" / "image_train").iterdir())[5]
    path.unlink()
    names = root / "veri776" / "name_train.txt"
    names.write_text("".join(f"{line}\n" for line in names.read_text().splitlines() if line != path.name))
    less = engine(root, network=TinyNet, **few)
    assert less.steps_per_epoch == made.steps_per_epoch, "which the number of steps alone does not tell"
    with pytest.raises(ValueError, match="made with other training images"):
        less.run(save_dir=str(tmp_path / "run"), max_epoch=2, pictures=False, resume="auto")


class Unlike(DroppingNet):
    """Draws more in the second process than in the first."""

    def forward(self, x):
        if self.training:
            torch.rand(1 + processes.current().rank)
        return super().forward(x)


def _with_and_without_a_rest(root, folder):
    processes.start()
    for name, epoch in [("whole", 2), ("rested", 1), ("rested", 2)]:
        made = engine(root, network=Unlike)
        made.run(save_dir=str(folder / name), max_epoch=epoch, pictures=False, resume="auto")
    processes.stop()


def test_each_process_goes_on_with_its_own_random_state(tiny_veri, tmp_path):
    together(_with_and_without_a_rest, 2, tiny_veri, tmp_path, folder=tmp_path)
    whole, rested = state(tmp_path / "whole"), state(tmp_path / "rested")
    first, second = whole["random"]
    assert not equal(first["torch"], second["torch"])
    assert equal(whole["random"], rested["random"]) and equal(whole["state_dict"], rested["state_dict"])


def _on_a_machine_of_its_own(root, folder):
    group = processes.start()
    os.chdir(folder / f"machine-{group.rank}")
    made = engine(root, network=TinyNet)
    made.run(save_dir="run", max_epoch=2, pictures=False, resume="auto")
    assert (made.first_step, made.global_step) == (4, 8)
    torch.save(made.model.state_dict(), folder / f"weights-{group.rank}.pt")
    processes.stop()


@pytest.mark.parametrize("other", [True, False])
def test_all_processes_go_on_from_the_checkpoint_that_process_0_sees(other, tiny_veri, tmp_path):
    go(tiny_veri, tmp_path / "machine-0" / "run")
    (tmp_path / "machine-1").mkdir()
    if other:
        # a file of that name, of another moment
        go(tiny_veri, tmp_path / "machine-1" / "run", max_epoch=2)
        folder = tmp_path / "machine-1" / "run" / "checkpoints"
        checkpoint.step_path(folder, 8).replace(checkpoint.step_path(folder, 4))
    together(_on_a_machine_of_its_own, 2, tiny_veri, tmp_path, folder=tmp_path)
    one, two = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2))
    assert equal(one, two) and equal(state(tmp_path / "machine-0" / "run")["state_dict"], one)
    assert (tmp_path / "machine-1" / "run").exists() is other, "only process 0 writes"


def _with_torchreids_manager(root):
    processes.start()
    data = torchreid.data.ImageDataManager(
        root=str(root), sources="veri776", height=32, width=32, batch_size_train=8, workers=0, use_gpu=False
    )
    model = TinyNet(data.num_train_pids)
    with pytest.raises(ValueError, match=r"ImageDataManager makes batches for 1 process\(es\) and there are 2"):
        DFRSTEngine(data, model, build_optimizer(model), use_gpu=False)
    processes.stop()


def test_a_data_manager_that_does_not_share_is_refused_in_several_processes(tiny_veri, tmp_path):
    together(_with_torchreids_manager, 2, tiny_veri, folder=tmp_path)


def kept_best(folder, made):
    """Does what is called the best exist, with its weights?"""
    about, weights = json.loads((folder / "best.json").read_text()), load_file(folder / "best.safetensors")
    return about["step"] == made.best["step"] and digest(weights) == about[checkpoint.HASH]


ON_TEST = {"eval_freq": 1, "best_on": "test", "max_epoch": 1}


def test_killed_before_the_best_weights_are_there_they_are_written_later(tiny_veri, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DFRSTEngine, "_write_best", killed)
        go(tiny_veri, tmp_path, **ON_TEST)
    assert not (tmp_path / "best.json").exists()
    assert kept_best(tmp_path, go(tiny_veri, tmp_path, **ON_TEST))


@pytest.mark.parametrize(
    "text",
    ['{"best"', "[]", "3", "{}", '{"best": 0.5}', '{"best": []}', '{"best": {"mAP": 0.5}}',
     '{"best": {"mAP": "0.5", "step": 1}}', '{"best": {"mAP": 0.5, "step": "1"}}'],
)  # fmt: skip
def test_a_description_of_the_best_weights_that_is_none_is_passed_over(text, tiny_veri, tmp_path, caplog):
    go(tiny_veri, tmp_path, **ON_TEST)
    (tmp_path / "best.json").write_text(text)
    again = go(tiny_veri, tmp_path, **ON_TEST)
    assert "the best weights so far are not there" in caplog.text
    assert kept_best(tmp_path, again)


def test_best_weights_that_did_not_fit_on_the_disk_are_not_called_the_best(tiny_veri, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "export", lambda path, *_: full() if path.name.startswith("best") else path)
        assert go(tiny_veri, tmp_path / "copy", **ON_TEST).best == {}
        assert "best weights so far could not be kept" in caplog.text
    assert kept_best(tmp_path / "copy", go(tiny_veri, tmp_path / "copy", **{**ON_TEST, "max_epoch": 2}))
    save = Checkpoints.save
    with monkeypatch.context() as patched:
        # the save for the best alone, after that of the epoch's end
        patched.setattr(Checkpoints, "save", lambda self, *rest: save(self, *rest) if rest[3] else None)
        assert go(tiny_veri, tmp_path / "save", **ON_TEST).best == {}


def test_the_best_of_a_course_that_was_left_is_not_the_best_of_the_new_one(tiny_veri, tmp_path, monkeypatch):
    # the evaluation after step 8 is repeated by each run that goes on from there
    scores = iter([0.5, 0.4, 0.7, 0.45, 0.45, 0.46])

    def scored(self, _=None):
        return {"veri776": {"mAP": next(scores)}}

    monkeypatch.setattr(DFRSTEngine, "evaluate", scored)
    made = go(tiny_veri, tmp_path, **{**ON_TEST, "max_epoch": 3, "keep_freq": 1})
    assert (made.best["mAP"], made.best["step"]) == (0.7, 12) and kept_best(tmp_path, made)
    second = str(checkpoint.step_path(tmp_path / "checkpoints", 8))
    assert checkpoint.load(second)["best"]["step"] == 4, "whose weights those of step 12 have replaced"
    made = go(tiny_veri, tmp_path, **{**ON_TEST, "max_epoch": 2, "resume": second})
    assert (made.best["mAP"], made.best["step"]) == (0.45, 8) and kept_best(tmp_path, made)
    made = go(tiny_veri, tmp_path, **{**ON_TEST, "max_epoch": 3})
    assert (made.best["mAP"], made.best["step"]) == (0.46, 12) and kept_best(tmp_path, made)
