"""Training on a GPU: every precision, compiled, shared, stopped, resumed, out of memory, not finite."""

import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from networks import TinyNet
from runs import kill_a_loading_process

from tools.studies.gpu import rounded
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import build
from torchreid_dfrst.training import build_optimizer, build_scheduler, checkpoint, settings
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.group_batch_norm import synchronize_batch_norm
from torchreid_dfrst.training.interrupt import StoppedError
from torchreid_dfrst.training.memory import explained
from torchreid_dfrst.training.step import NonFiniteError, TrainStep

GPU, CPU = torch.device("cuda"), torch.device("cpu")
LABELS = torch.arange(4).repeat_interleave(4)
IMAGES = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
RUN = {"max_epoch": 2, "print_freq": 3, "eval_freq": -1}


def network():
    torch.manual_seed(0)
    return build("dfrst_resnet18", 4, loss="triplet", pretrained=False, parts=2)


def losses(device, precision="fp32", steps=3, **how):
    """The losses of some steps on one batch."""
    model = network()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-3), DFRSTLoss(), device, precision, **how)
    return [float(step(IMAGES, LABELS).loss) for _ in range(steps)]


@pytest.mark.parametrize(
    ("precision", "how", "tolerance"),
    [
        ("fp32", {}, 1e-2),
        ("fp32", {"channels_last": False}, 1e-2),
        ("fp32", {"compile": True}, 1e-2),
        ("tf32", {}, 3e-2),
        ("bf16", {}, 1e-1),
        ("fp16", {}, 3e-2),
    ],
)
def test_steps_have_the_losses_of_a_cpu(precision, how, tolerance):
    expected = losses(CPU)
    with rounded(precision):
        found = losses(GPU, "fp32" if precision == "tf32" else precision, **how)
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_a_step_never_waits_for_the_device():
    model = network()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-3), DFRSTLoss(), GPU)
    images, labels = IMAGES.pin_memory(), LABELS.pin_memory()
    step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_of(rank, count, folder):
    """A step of one of several processes by NCCL, which normalise and mine over the global batch."""
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    try:
        model = synchronize_batch_norm(network(), device).to(device)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
        share = slice(rank * 16 // count, (rank + 1) * 16 // count)
        if count == 1:
            run = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank], broadcast_buffers=False)
            logits, features = run(IMAGES.to(device))
            loss = DFRSTLoss()(logits, features, LABELS.to(device)).total
            loss.backward()
        else:
            from torchreid_dfrst.processes import current

            group = current()
            step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-3), DFRSTLoss(), device, group=group)
            loss = step(IMAGES[share], LABELS[share]).loss
            dist.all_reduce(loss)
            loss = loss / count
        np.save(folder / f"{rank}.npy", float(loss))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("count", [1, 2])
def test_processes_by_nccl_have_the_loss_of_one(count, tmp_path):
    if torch.cuda.device_count() < count:
        pytest.skip(f"{count} GPUs are needed, there is {torch.cuda.device_count()}")
    torch.multiprocessing.spawn(step_of, (count, tmp_path), nprocs=count)
    found = [float(np.load(tmp_path / f"{rank}.npy")) for rank in range(count)]
    np.testing.assert_allclose(found, losses(CPU, steps=1) * count, rtol=1e-2)


def engine(root, model=TinyNet, **options):
    from runs import manager

    settings(seed=0)
    data = manager(root, use_gpu=True, **options)
    made = model(data.num_train_pids)
    optimizer = build_optimizer(made, lr=1e-3)
    scheduler = build_scheduler(optimizer, len(data.train_loader), lr_scheduler="single_step", stepsize=9)
    return DFRSTEngine(data, made, optimizer, scheduler, use_gpu=True)


def test_batches_are_pinned_and_a_run_evaluates(tiny_veri, tmp_path):
    made = engine(tiny_veri, workers=1)
    assert next(iter(made.train_loader))["img"].is_pinned()
    assert made.run(save_dir=str(tmp_path), **RUN)["veri776"]["mAP"] > 0
    assert next(made.model.parameters()).is_cuda


def test_losses_are_looked_at_every_print_freq_only(tiny_veri, tmp_path, monkeypatch):
    looked, check = [], DFRSTEngine._check
    monkeypatch.setattr(DFRSTEngine, "_check", lambda self, steps: looked.append(len(steps)) or check(self, steps))
    made = engine(tiny_veri)
    made.run(save_dir=str(tmp_path), **RUN)
    most, steps = RUN["print_freq"], made.steps_per_epoch
    assert sum(looked) == RUN["max_epoch"] * steps and max(looked) == min(most, steps)


def test_a_run_that_is_stopped_goes_on_where_it_was(tiny_veri, tmp_path):
    class Stopped(TinyNet):
        steps = 0

        def forward(self, x):
            self.steps += self.training
            if self.steps == 3 and self.training:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    with pytest.raises(StoppedError, match="after step 3"):
        engine(tiny_veri, Stopped).run(save_dir=str(tmp_path / "a"), **RUN)
    engine(tiny_veri).run(save_dir=str(tmp_path / "a"), resume="auto", **RUN)
    engine(tiny_veri).run(save_dir=str(tmp_path / "b"), **RUN)
    one, other = (checkpoint.load(checkpoint.newest(tmp_path / name / "checkpoints")[0])["state_dict"] for name in "ab")
    for name, value in one.items():
        torch.testing.assert_close(value.cpu(), other[name].cpu(), rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_at_the_next_look(tiny_veri, tmp_path):
    class Exploding(TinyNet):
        steps = 0

        def forward(self, x):
            self.steps += self.training
            return super().forward(x * float("nan") if self.steps > 4 else x)

    with pytest.raises(NonFiniteError, match="is not finite"):
        engine(tiny_veri, Exploding).run(save_dir=str(tmp_path), **{**RUN, "max_epoch": 4})


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(1 << 50, dtype=torch.uint8, device=GPU),
        lambda: torch.empty(1 << 50, dtype=torch.uint8, pin_memory=True),
        lambda: torch.nn.Linear(1 << 24, 1 << 24, device=GPU),
    ],
    ids=["step", "pinning", "building"],
)
def test_memory_that_runs_out_is_said_in_one_line(ask):
    with pytest.raises(OSError, match=r"^memory ran out \(.*\): lower data\.batch_size_train") as error, explained():
        ask()
    assert "\n" not in str(error.value)


def test_memory_that_runs_out_in_a_step_ends_the_run_in_one_line(tiny_veri, tmp_path):
    class Greedy(TinyNet):
        def forward(self, x):
            torch.empty(1 << 50, dtype=torch.uint8, device=x.device)
            return super().forward(x)

    with pytest.raises(OSError, match=r"memory ran out .*: lower data\.batch_size_train"):
        engine(tiny_veri, Greedy).run(save_dir=str(tmp_path), **RUN)


def test_a_dead_loading_process_is_named(tiny_veri):
    kill_a_loading_process(engine(tiny_veri, workers=1).train_loader)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 5e-2), ("fp16", 1e-2)])
def test_extraction_gives_the_features_of_a_cpu(precision, tolerance):
    model = network().eval()
    batch = {"img": IMAGES, "pid": LABELS, "camid": LABELS, "impath": [str(i) for i in range(16)]}
    expected = embed(model, [batch]).embedding
    found = embed(model.to(GPU), [batch], GPU, precision).embedding
    scale = np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)
