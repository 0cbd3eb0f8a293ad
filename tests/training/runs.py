"""Short runs of the engine with a tiny network, as functions that a process of their own can be given."""

import io
import os
import signal
import sys
import time

import pytest
import torch
from networks import TinyNet

from torchreid_dfrst import processes
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.training import build_optimizer, build_scheduler, checkpoint
from torchreid_dfrst.training import settings as fix
from torchreid_dfrst.training.engine import DFRSTEngine

EPOCHS = 4


def newest(folder):
    """The newest whole checkpoint in a folder."""
    found = checkpoint.newest(folder)
    return found and found[0]


def manager(root, **options):
    group = processes.current()
    settings = {
        "sources": "veri776",
        "height": 32,
        "width": 32,
        "transforms": ["random_flip", "random_crop", "random_erase", "color_jitter"],
        "batch_size_train": 8,
        "num_instances": 2,
        "workers": 0,
        "rank": group.rank,
        "world_size": group.world_size,
    }
    return DataManager(root=str(root), **{**settings, **options})


class DroppingNet(TinyNet):
    """Draws from the global generator in training, as dropout does."""

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.1, self.training))


def engine(root, network=DroppingNet, **options):
    fix(seed=0)
    data = manager(root, **options)
    model = network(data.num_train_pids)
    optimizer = build_optimizer(model, lr=1e-3)
    scheduler = build_scheduler(
        optimizer, len(data.train_loader), lr_scheduler="multi_step", stepsize=[2, 3], warmup_epoch=1.5
    )
    return DFRSTEngine(data, model, optimizer, scheduler, use_gpu=False)


def kill_a_loading_process(loader):
    """Take a batch, kill what loads them, and see the loader say so."""
    batches = iter(loader)
    next(batches)
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"lower data\.workers"):
        for _ in range(10):
            next(batches)


def run_on_a_slow_disk(root, folder):
    """As ``run``, with a disk that takes 30 ms for a checkpoint, so that there is time to be killed in the middle."""
    whole = torch.save

    def slow(state, file):
        memory = io.BytesIO()
        whole(state, memory)
        pieces = memoryview(memory.getvalue())
        for start in range(0, len(pieces), len(pieces) // 30 + 1):
            file.write(pieces[start : start + len(pieces) // 30 + 1])
            file.flush()
            time.sleep(0.001)

    checkpoint.torch.save = slow
    run(root, folder)


def run(root, folder, data=None, **options):
    """Train to the end, resuming whatever is in ``folder``; the exit code is 75 when stopped by a signal."""
    from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError

    processes.start()
    made = engine(root, **(data or {}))
    try:
        settings = {
            "max_epoch": EPOCHS,
            "print_freq": 3,
            "eval_freq": 2,
            "save_steps": 1,
            "resume": "auto",
            "pictures": False,
        }
        made.run(save_dir=str(folder), **{**settings, **options})
    except StoppedError:
        sys.exit(EXIT_CODE)
    processes.stop()
