"""Interrupted anywhere, resumed, and equal to an uninterrupted run bit for bit."""

import json
import logging
import os
import signal
import time

import numpy as np
import pytest
import torch
from networks import TinyNet
from processes import quick, together
from runs import EPOCHS, engine, run, run_on_a_slow_disk
from safetensors.torch import load_file
from tiny import write_tiny_veri

from torchreid_dfrst import processes
from torchreid_dfrst.training import checkpoint
from torchreid_dfrst.training.checkpoint import Checkpoints
from torchreid_dfrst.training.interrupt import EXIT_CODE

KILLS = 20


def state(folder):
    return checkpoint.newest(folder / "checkpoints")[1]


def equal(a, b):
    """Are two states the same in every bit?"""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_tiny_veri(folder / "data" / "veri776")
    process = quick(run, folder / "data", folder / "whole", log=folder / "whole.log")
    process.join()
    assert process.exitcode == 0, (folder / "whole.log").read_text()
    return folder / "whole"


def until(condition, process, timeout=60):
    began = time.monotonic()
    while not condition() and process.is_alive() and time.monotonic() - began < timeout:
        time.sleep(0.0005)


def test_killed_at_20_random_moments_the_weights_are_those_of_an_uninterrupted_run(tiny_veri, tmp_path, uninterrupted):
    rng = np.random.default_rng()
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    kills, while_saving, finished = 0, 0, False
    for attempt in range(10 * KILLS):
        if finished and kills >= KILLS:
            break
        if finished:  # done before enough kills: once more from the start
            assert equal(state(folder), state(uninterrupted))
            folder, finished = tmp_path / f"killed-{attempt}", False
        process = quick(run_on_a_slow_disk, tiny_veri, folder, log=log)
        if kills < KILLS:
            _wait(folder / "checkpoints", process, rng)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            while_saving += any((folder / "checkpoints").glob("*.pt.*.part"))
        else:
            assert process.exitcode == 0, log.read_text()[-3000:]
            finished = True
    assert kills >= KILLS
    assert while_saving > 0, "no kill hit a save: the test proves less than it says"
    expected, found = state(uninterrupted), state(folder)
    assert expected["epoch"] == EPOCHS
    for key in expected:
        assert equal(found[key], expected[key]), key
    whole, parts = (load_file(path / "weights.safetensors") for path in (uninterrupted, folder))
    assert equal(whole, parts)
    lines = [[json.loads(line) for line in (path / "metrics.jsonl").open()] for path in (uninterrupted, folder)]
    scores = [[(e["step"], e["mAP"]) for e in part if e["kind"] == "veri776"] for part in lines]
    assert scores[0] == scores[1] and len(scores[0]) == 2, "each evaluation is in the journal once"


def _wait(folder, process, rng):
    """Wait for a moment to kill: half of the time while a checkpoint is being written, else any time after a step."""
    if rng.random() < 0.5:
        until(lambda: any(folder.glob("*.pt.*.part")), process)
        time.sleep(rng.uniform(0, 0.05))
    else:
        before = checkpoint.all_steps(folder)[-1:]
        until(lambda: checkpoint.all_steps(folder)[-1:] != before, process)
        time.sleep(rng.uniform(0, 0.1))


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_finishes_the_step_saves_and_leaves_with_its_own_code(workers, tiny_veri, tmp_path, uninterrupted):
    folder, log = tmp_path / "stopped", tmp_path / "stopped.log"
    options = {"save_steps": 0, "save_freq": 100, "print_freq": 1}
    process = quick(_run_with_workers, tiny_veri, folder, workers, options, log=log)
    until(lambda: (folder / "metrics.jsonl").is_file() and len((folder / "metrics.jsonl").read_text()) > 10, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == EXIT_CODE, log.read_text()[-3000:]
    assert "SIGTERM received" in log.read_text()
    [path] = checkpoint.all_steps(folder / "checkpoints")
    assert 0 < int(path.stem[5:]) < 16
    process = quick(_run_with_workers, tiny_veri, folder, workers, options, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()[-3000:]
    assert equal(state(folder)["state_dict"], state(uninterrupted)["state_dict"])


def _run_with_workers(root, folder, workers, options):
    run(root, folder, data={"workers": workers}, **options)


def test_two_processes_train_to_the_weights_of_one_and_write_once(tiny_veri, tmp_path):
    together(_run_double, 1, tiny_veri, tmp_path / "one", folder=tmp_path)
    together(_run_double, 2, tiny_veri, tmp_path / "two", folder=tmp_path)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one["epoch"] == two["epoch"] == 2
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-9, atol=1e-12, msg=name)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1])
    for first, second in zip(*lines, strict=True):
        for name in ("loss", "cross_entropy", "accuracy") if first["kind"] == "train" else ("mAP",):
            assert second[name] == pytest.approx(first[name], rel=1e-9), "of the whole batch, not of one process's rows"


class DoubleNet(TinyNet):
    """Computes in double precision, in which the order of a sum does not matter."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.double()

    def forward(self, x):
        return super().forward(x.double())


def _run_double(root, folder):
    processes.start()
    engine(root, network=DoubleNet).run(save_dir=str(folder), max_epoch=2, print_freq=2)
    processes.stop()


def test_the_newest_whole_checkpoint_is_found(tmp_path, caplog):
    for step in range(3):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {"value": torch.full((1000,), step)})
    torn, altered = checkpoint.step_path(tmp_path, 3), checkpoint.step_path(tmp_path, 4)
    whole = checkpoint.step_path(tmp_path, 2).read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    altered.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    checkpoint.step_path(tmp_path, 5).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        path, state = checkpoint.newest(tmp_path)
        assert path == checkpoint.step_path(tmp_path, 2) and (state["value"] == 2).all()
    assert caplog.text.count("skipping a checkpoint") == 3
    with pytest.raises(ValueError, match="torn"):
        checkpoint.load(torn)
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_no_flipped_bit_or_cut_is_more_than_a_warning(tmp_path):
    path = checkpoint.save(checkpoint.step_path(tmp_path, 1), {"value": torch.arange(5)})
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\x01\x02", 0, len(whole) - 60)
    places = [*range(0, 60, 5), *range(directory, len(whole))]
    logging.disable(logging.WARNING)
    try:
        for place in places:
            for bit in (1, 8, 128):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
                checkpoint.newest(tmp_path)
        for length in range(0, len(whole), 23):
            path.write_bytes(whole[:length])
            assert checkpoint.newest(tmp_path) is None
    finally:
        logging.disable(logging.NOTSET)


def test_pruning_keeps_the_last_two_and_the_chosen(tmp_path):
    (tmp_path / "step-0000000009.pt.part").write_bytes(b"left over")
    for step in range(8):
        Checkpoints(tmp_path).save(step, {}, keep_each=3)
    assert [int(path.stem[5:]) for path in checkpoint.all_steps(tmp_path)] == [0, 3, 6, 7]
    assert not list(tmp_path.glob("*.part"))
