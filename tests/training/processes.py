"""Processes that start in a blink: forked from a server that has everything imported."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torchreid_dfrst.training.run"])


def quick(target, *args, log: Path):
    """Start ``target(*args)`` in a process of its own; what it prints goes to ``log``."""
    process = CONTEXT.Process(target=_alone, args=(target, args, log))
    process.start()
    return process


def launch(target, count: int, *args, folder: Path):
    """Start ``target(*args)`` in ``count`` processes as torchrun would; gives them and the files of what they say."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [folder / f"process-{rank}.log" for rank in range(count)]
    processes = []
    for rank, log in enumerate(logs):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(CONTEXT.Process(target=_alone, args=(target, args, log, names)))
        processes[-1].start()
    return processes, logs


def together(target, count: int, *args, folder: Path):
    """Run ``target(*args)`` in ``count`` processes as torchrun would, and wait; a failure shows its output."""
    processes, logs = launch(target, count, *args, folder=folder)
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise AssertionError(f"exit codes {codes}\n" + "\n".join(log.read_text()[-3000:] for log in logs))


def _alone(target, args, log, environment=()):
    import torch

    # a forkserver's children would start loading processes through the server too, which import everything anew
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update({name: str(value) for name, value in dict(environment).items()})
    torch.set_num_threads(1)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        target(*args)
        sys.stdout.flush()
        sys.stderr.flush()
