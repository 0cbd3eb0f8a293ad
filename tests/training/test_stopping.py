"""Stopped with all its processes, in an evaluation, by a dead loader or a bad file: saved, together, with one line."""

import json
import os
import signal
import sys
import time

import pytest
import torch
from networks import TinyNet
from processes import launch, quick
from runs import engine, run
from torch.utils.data import _utils

from torchreid_dfrst import processes
from torchreid_dfrst.data.images import BadImageError
from torchreid_dfrst.processes import OtherProcessError
from torchreid_dfrst.training import checkpoint, interrupt, sections, train
from torchreid_dfrst.training import run as configured
from torchreid_dfrst.training.interrupt import EXIT_CODE, MARKER, StoppedError

pytestmark = pytest.mark.usefixtures("thin_resnets")

SEVERAL = {"save_freq": 100, "save_steps": 0, "eval_freq": -1, "print_freq": 1, "pictures": False}


class SlowNet(TinyNet):
    """Most of a step is spent here, so that this is where signals arrive."""

    def forward(self, x):
        if self.training:
            time.sleep(0.1)
        return super().forward(x)


def a_job_of_its_own(root, folder):
    """Training with loading processes, in a group of processes that can be signalled as a whole, on a slow disk."""
    os.setsid()
    save = checkpoint.save

    def slow(path, state):
        time.sleep(1)
        return save(path, state)

    checkpoint.save = slow
    try:
        run(root, folder, data={"workers": 2, "network": SlowNet}, **SEVERAL)
    except SystemExit:
        # whoever leaves first ends the others, under torchrun
        print("saved" if checkpoint.all_steps(folder / "checkpoints") else "left before the checkpoint was there")
        raise


@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_to_the_whole_job_loading_processes_included_saves_and_leaves(count, tiny_veri, tmp_path):
    folder = tmp_path / "run"
    processes, logs = launch(a_job_of_its_own, count, tiny_veri, folder, folder=tmp_path)
    _until(lambda: _lines(folder / "metrics.jsonl") > 1, processes)
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    said = _finished(processes, logs)
    assert [process.exitcode for process in processes] == [EXIT_CODE] * count, said
    assert said.count("saved\n") == count and "Traceback" not in said, said
    assert "FutureWarning" not in said
    [path] = checkpoint.all_steps(folder / "checkpoints")
    assert (folder / MARKER).read_text() == f"after step {int(path.stem[5:])}\n"
    process = quick(run, tiny_veri, folder, log=tmp_path / "again")
    process.join()
    assert process.exitcode == 0 and not (folder / MARKER).exists()


def _lines(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _until(condition, processes, timeout=120):
    end = time.monotonic() + timeout
    while not condition() and all(process.is_alive() for process in processes) and time.monotonic() < end:
        time.sleep(0.005)


def _finished(processes, logs):
    for process in processes:
        process.join(60)
        process.kill()
    return "\n".join(log.read_text() for log in logs)


def test_a_worker_that_dies_while_the_main_process_computes_is_one_message(tiny_veri, tmp_path, monkeypatch):
    class Murderous(SlowNet):
        steps = 0

        def forward(self, x):
            if self.training:
                self.steps += 1
                if self.steps == 2:
                    os.kill(made.train_loader._iterator._workers[0].pid, signal.SIGKILL)
            return super().forward(x)

    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    made = engine(tiny_veri, network=Murderous, workers=1)
    with pytest.raises(ChildProcessError, match=r"a data loading process died .* lower data\.workers"):
        made.run(save_dir=str(tmp_path), max_epoch=3, **SEVERAL)
    [path] = checkpoint.all_steps(tmp_path / "checkpoints")
    assert int(path.stem[5:]) == made.global_step >= 2, "what had been trained is there"


def test_sigterm_in_an_evaluation_ends_it_and_the_epoch_is_on_disk_before(tiny_veri, tmp_path):
    class Stopped(TinyNet):
        def forward(self, x):
            seen.append("train" if self.training else "test")
            if seen.count("test") == 3:
                assert [path.stem[-2:] for path in checkpoint.all_steps(tmp_path / "checkpoints")] == ["04"]
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    seen = []
    options = {**SEVERAL, "save_dir": str(tmp_path), "max_epoch": 2, "eval_freq": 1}
    with pytest.raises(StoppedError, match="after step 4"):
        engine(tiny_veri, network=Stopped, batch_size_test=4).run(**options)
    assert seen == ["train"] * 4 + ["test"] * 3
    made = engine(tiny_veri, network=TinyNet)
    metrics = made.run(**options, resume="auto")
    assert made.epoch == 2 and metrics["veri776"]["mAP"] > 0
    assert (tmp_path / "metrics.jsonl").read_text().count('"kind": "veri776"') == 2


def test_a_signal_before_the_first_step_of_an_epoch_is_heeded_at_once(tiny_veri, tmp_path):
    made = engine(tiny_veri, network=TinyNet)
    count = made.sampler.seek

    def seek(epoch, start=0):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        count(epoch, start)

    made.sampler.seek = seek
    with pytest.raises(StoppedError, match="after step 4"):
        made.run(save_dir=str(tmp_path), max_epoch=2, **SEVERAL)


def test_the_steps_since_the_last_line_are_in_the_journal_of_a_stopped_run(tiny_veri, tmp_path):
    class Stopped(TinyNet):
        def forward(self, x):
            seen.append(1)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    seen = []
    options = {**SEVERAL, "print_freq": 2, "save_dir": str(tmp_path), "max_epoch": 1}
    with pytest.raises(StoppedError, match="after step 3"):
        engine(tiny_veri, network=Stopped).run(**options)
    engine(tiny_veri, network=TinyNet).run(**options, resume="auto")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["steps"]) for line in lines if line["kind"] == "train"] == [(2, 2), (3, 1), (4, 1)]


@pytest.mark.parametrize("place", ["data", "resume", "result"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_or_after_training_ends_the_run_politely(place, number, tiny_veri, tmp_path, monkeypatch):
    where, name = {
        "data": (configured, "DataManager"),
        "resume": (checkpoint.Checkpoints, "find"),
        "result": (configured, "_list_skipped"),
    }[place]
    whole = getattr(where, name)

    def asked(*args, **options):
        os.kill(os.getpid(), number)
        return whole(*args, **options)

    settings = {name: {} for name in sections()}
    settings["model"] = {"name": "dfrst_resnet18", "pretrained": False, "parts": 2}
    settings["data"] = {"root": str(tiny_veri), "sources": "veri776", "height": 32, "width": 32, "workers": 0}
    settings["data"] |= {"batch_size_train": 8, "num_instances": 2}
    settings["train"] = {"save_dir": str(tmp_path / "run"), "max_epoch": 1, "pictures": False}
    before = signal.getsignal(number)
    monkeypatch.setattr(where, name, asked)
    if place == "result":
        assert train(settings)["step"] > 0 and not (tmp_path / "run" / MARKER).exists()
    else:
        with pytest.raises(StoppedError, match=r"stopped as asked after step 0 .*resume auto"):
            train(settings)
        assert (tmp_path / "run" / MARKER).read_text() == "after step 0\n"
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    settings["train"]["resume"] = "auto"
    assert train(settings)["step"] > 0
    assert not (tmp_path / "run" / MARKER).exists()


def test_one_of_several_processes_leaves_no_word_of_a_stop_before_training(tiny_veri, tmp_path, monkeypatch):
    def looked(*args, **options):
        seen.append(signal.getsignal(signal.SIGTERM))
        raise ValueError("enough")

    seen = []
    monkeypatch.setattr(processes, "start", lambda: processes.Group(rank=0, world_size=2))
    monkeypatch.setattr(configured, "DataManager", looked)
    settings = {name: {} for name in sections()} | {"train": {"save_dir": str(tmp_path), "max_epoch": 1}}
    with pytest.raises(ValueError, match="enough"):
        train(settings)
    assert seen == [signal.getsignal(signal.SIGTERM)], "torchrun sends it to all where one has failed"


def a_bad_image_for_one(root, folder):
    try:
        run(root, folder, **SEVERAL)
    except BadImageError as error:
        print(error)
        sys.exit(3)
    except OtherProcessError as error:
        print(error)
        sys.exit(4)


def test_a_bad_image_in_one_process_is_one_line_in_each(tiny_veri, tmp_path):
    bad = sorted((tiny_veri / "veri776" / "image_train").iterdir())[3]
    bad.write_bytes(b"")
    processes, logs = launch(a_bad_image_for_one, 2, tiny_veri, tmp_path / "run", folder=tmp_path)
    said = _finished(processes, logs)
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [3, 4], said
    told = logs[codes.index(4)].read_text()
    assert f"process {codes.index(3)}: {bad} cannot be read" in told and "Traceback" not in told


def embed_with_one_part_missing(root):
    group = processes.start()
    made = engine(root, network=TinyNet)
    if group.rank == 1:
        path = made.test_loader["veri776"]["query"].dataset.items[2][0]
        made.test_loader["veri776"]["query"].dataset.items[2] = (path + ".gone", 0, 0, 0)
    try:
        made.test()
    except (BadImageError, OtherProcessError) as error:
        print(type(error).__name__, error)
    processes.stop()


def test_an_evaluation_that_fails_in_one_process_ends_in_all(tiny_veri, tmp_path):
    processes, logs = launch(embed_with_one_part_missing, 2, tiny_veri, folder=tmp_path)
    said = _finished(processes, logs)
    assert [process.exitcode for process in processes] == [0, 0], said
    assert "OtherProcessError process 1: " in logs[0].read_text() and "BadImageError" not in logs[0].read_text()
    assert "BadImageError " in logs[1].read_text() and said.count("no such file") == 2


class Weak(TinyNet):
    """Runs out of memory in its second step, in one process alone."""

    rank, steps = 1, 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 2 and processes.current().rank == self.rank:
            torch.empty(1 << 60, dtype=torch.uint8)
        return super().forward(x)


def out_of_memory_in_one(root, folder, port, rank):
    if port:  # as under torchrun, which keeps the store itself
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0", MASTER_PORT=str(port))
    Weak.rank = rank
    try:
        run(root, folder, data={"network": Weak}, **SEVERAL)
    except OtherProcessError as error:
        print("other:", error)
        sys.exit(4)
    except OSError as error:
        print("own:", error)
        sys.exit(3)


@pytest.mark.parametrize(("torchrun", "weak"), [(True, 1), (True, 0), (False, 1), (False, 0)])
def test_an_error_in_a_step_of_one_process_alone_is_what_the_other_says(torchrun, weak, tiny_veri, tmp_path):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if torchrun else None
    port = store.port if store is not None else 0
    processes, logs = launch(out_of_memory_in_one, 2, tiny_veri, tmp_path / "run", port, weak, folder=tmp_path)
    said = _finished(processes, logs)
    assert [process.exitcode for process in processes] == ([4, 3] if weak else [3, 4]), said
    told = logs[1 - weak].read_text()
    [line] = [line for line in told.splitlines() if line.startswith("other: ")]
    assert "Connection closed" not in told and "Traceback" not in told
    if torchrun or weak:
        assert line.startswith(f"other: process {weak}: memory ran out (") and "lower data.batch_size_train" in line
    else:
        # process 0 took its store with it, perhaps
        assert line.startswith(("other: process 0: memory ran out (", "other: another process of the run has ended"))


def what_cannot_be_saved(root, folder, stopped):
    class Stopped(TinyNet):
        def forward(self, x):
            if stopped and self.training:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    def refuse(path, state):
        raise checkpoint.UnreadableError("a checkpoint of this run could not be loaded again")

    checkpoint.save = refuse
    try:
        run(root, folder, data={"network": Stopped}, **{**SEVERAL, "save_steps": 0 if stopped else 1})
    except checkpoint.UnreadableError as error:
        print("error:", error)
        sys.exit(3)


@pytest.mark.parametrize("stopped", [False, True])
def test_what_process_0_cannot_save_ends_all_of_them_with_its_message(stopped, tiny_veri, tmp_path):
    processes, logs = launch(what_cannot_be_saved, 2, tiny_veri, tmp_path / "run", stopped, folder=tmp_path)
    said = _finished(processes, logs)
    assert [process.exitcode for process in processes] == [3, 3], said
    assert said.count("error: a checkpoint of this run could not be loaded again\n") == 2


@pytest.mark.parametrize("kind", [torch.distributed.DistBackendError, ValueError])
def test_an_error_that_may_be_about_this_process_keeps_its_words(kind, monkeypatch):
    monkeypatch.setattr(interrupt, "several", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(kind, match="NCCL error"), interrupt.ended_together():
        raise kind("NCCL error: unhandled cuda error")


SAID_BY_GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3"


@pytest.mark.parametrize(
    ("error", "kind", "left"),
    [
        (RuntimeError(SAID_BY_GLOO), OtherProcessError, []),
        (RuntimeError("cannot read /data/gloo/a.jpg"), RuntimeError, ["process 0: cannot read /data/gloo/a.jpg"]),
        (RuntimeError("[/data/gloo/a.jpg] is torn"), RuntimeError, ["process 0: [/data/gloo/a.jpg] is torn"]),
        (StoppedError("stopped as asked, go on from /runs/gloo/a"), StoppedError, []),
    ],
)
def test_a_lost_connection_is_told_from_what_this_process_says_and_from_a_stop(error, kind, left, monkeypatch):
    words = []
    monkeypatch.setattr(interrupt, "several", lambda: True)
    monkeypatch.setattr(interrupt, "leave_message", lambda error: words.append(f"process 0: {error}"))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(kind) as raised, interrupt.ended_together():
        raise error
    assert type(raised.value) is kind and words == left


def test_a_bad_image_is_named_where_the_state_cannot_be_saved(tiny_veri, tmp_path, monkeypatch, caplog):
    def refuse(path, state):
        raise checkpoint.UnreadableError("a checkpoint of this run could not be loaded again")

    made = engine(tiny_veri, network=TinyNet)
    made.sampler.seek(0, 2)
    index = next(iter(made.sampler))[0][0]
    bad = made.train_loader.dataset.items[index][0]
    made.sampler.seek(0, 0)
    earlier = {key for _, batch in zip(range(2), made.sampler, strict=False) for key, *_ in batch}
    assert index not in earlier, "or nothing would have been trained before"
    open(bad, "wb").close()
    monkeypatch.setattr(checkpoint, "save", refuse)
    with pytest.raises(BadImageError, match="cannot be read"):
        made.run(save_dir=str(tmp_path), max_epoch=1, **SEVERAL)
    assert made.global_step == 2
    assert "what it has trained could not be saved: a checkpoint of this run could not be loaded" in caplog.text
