"""Two processes equal one: the loss, every gradient, the running statistics, the features."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from networks import TinyNet
from processes import together

from torchreid_dfrst import processes
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.models import build
from torchreid_dfrst.processes import gather_rows
from torchreid_dfrst.training import step as loop_step
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.group_batch_norm import GroupBatchNorm, synchronize_batch_norm
from torchreid_dfrst.training.step import TrainStep

CPU = torch.device("cpu")
LABELS = torch.arange(4).repeat_interleave(4)


def network(name):
    torch.manual_seed(0)
    # in double precision: in single, the order of a sum alone moves the first layer's gradient by half a percent
    if name == "tiny":
        return TinyNet(4).double()
    return build(name, 4, loss="triplet", pretrained=False, parts=2).double()


def step_once(name, folder=None, precision=None):
    """One step on the global batch; with processes, on this one's rows of it. None: in double precision."""
    group = processes.start()
    model = network(name) if precision is None else network(name).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = TrainStep(model, optimizer, DFRSTLoss(), CPU, precision or "fp32", group=group)
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    images = images.to(next(model.parameters()).dtype)
    share = slice(group.rank * 16 // group.world_size, (group.rank + 1) * 16 // group.world_size)
    result = step(images[share], LABELS[share])
    loss = result.loss
    if group.world_size > 1:
        dist.all_reduce(loss)
        loss /= group.world_size
    found = {
        "loss": loss,
        "triplet": result.triplet,
        "gradients": {
            name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
        },
        "buffers": dict(model.named_buffers()),
    }
    if folder is not None:
        torch.save(found, folder / f"rank-{group.rank}.pt")
        processes.stop()
    return found


@pytest.mark.parametrize(("name", "tolerance"), [("tiny", 1e-11), ("dfrst_resnet18", 1e-9)])
def test_one_step_of_two_processes_equals_that_of_one(name, tolerance, tmp_path):
    whole = step_once(name)
    together(step_once, 2, name, tmp_path, folder=tmp_path)
    assert whole["triplet"] > 0 and len(whole["gradients"]) > 4
    for rank in range(2):
        part = torch.load(tmp_path / f"rank-{rank}.pt")
        torch.testing.assert_close(part["loss"], whole["loss"], rtol=tolerance, atol=0)
        torch.testing.assert_close(part["triplet"], whole["triplet"], rtol=tolerance, atol=0)
        assert part["gradients"].keys() == whole["gradients"].keys()
        largest = max(float(gradient.norm()) for gradient in whole["gradients"].values())
        for key, gradient in whole["gradients"].items():
            error = float((part["gradients"][key] - gradient).norm())
            assert error <= tolerance * (float(gradient.norm()) + 1e-2 * largest), key
        for key, value in whole["buffers"].items():
            torch.testing.assert_close(part["buffers"][key], value, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_half_precision_has_the_loss_of_one_process(precision, tmp_path):
    whole = step_once("tiny", precision=precision)
    together(step_once, 2, "tiny", tmp_path, precision, folder=tmp_path)
    assert whole["triplet"] > 0.1
    for rank in range(2):
        part = torch.load(tmp_path / f"rank-{rank}.pt")
        torch.testing.assert_close(part["loss"], whole["loss"], rtol=0.02, atol=0)
        torch.testing.assert_close(part["triplet"], whole["triplet"], rtol=0.02, atol=0)


def normalised_in_half(folder):
    """Rows far from 0, whose mean and variance half precision cannot hold."""
    group = processes.start()
    whole = 20 + torch.randn(16, 8, 3, generator=torch.Generator().manual_seed(2))
    share = slice(8 * group.rank, 8 * group.rank + 8)
    for kind in (torch.bfloat16, torch.float16):
        x = whole.to(kind)
        ours, reference = GroupBatchNorm(8), torch.nn.BatchNorm1d(8)
        found, expected = ours(x[share]), reference(x.float())[share]
        assert found.dtype == kind
        torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)
        torch.testing.assert_close(ours.running_mean, reference.running_mean, rtol=1e-5, atol=0)
        torch.testing.assert_close(ours.running_var, reference.running_var, rtol=1e-4, atol=0)
    processes.stop()


def test_statistics_of_half_precision_rows_are_single_precision(tmp_path):
    together(normalised_in_half, 2, tmp_path, folder=tmp_path)


def mined_in_half(folder):
    gathered, gather = [], loop_step.gather_rows
    loop_step.gather_rows = lambda rows: (gathered.append(rows.dtype), gather(rows))[1]
    step_once("tiny", folder, "bf16")
    assert gathered == [torch.float32, torch.int64], "features and labels"


def test_features_in_half_precision_are_mined_in_single_precision(tmp_path):
    together(mined_in_half, 2, tmp_path, folder=tmp_path)


def mined_locally(folder):
    """What plain data parallelism would do: each process mines among its own rows."""
    group = processes.start()
    features = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mine = features[4 * group.rank : 4 * group.rank + 4]
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    own = DFRSTLoss()([mine], [mine], labels[:4] if group.rank == 0 else labels[4:] - 2).triplet
    gathered = gather_rows(mine)
    assert torch.equal(gathered, features)
    wide = DFRSTLoss()([mine], [gathered], labels[:4] % 4, labels).triplet
    assert wide > own + 1e-6, "the global batch has harder triplets"
    processes.stop()


def test_mining_over_all_processes_finds_harder_triplets(tmp_path):
    together(mined_locally, 2, tmp_path, folder=tmp_path)


def embed_all(root, folder):
    group = processes.start()
    data = DataManager(
        root=str(root), sources="veri776", height=32, width=32, batch_size_train=6, num_instances=2, workers=0,
        batch_size_test=5, rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    torch.manual_seed(0)
    found = embed(TinyNet(4), data.test_loader["veri776"]["gallery"])
    if folder is not None:
        np.savez(folder / f"rank-{group.rank}.npz", **found._asdict())
        processes.stop()
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_evaluation_shared_by_processes_gives_each_image_once_in_order(count, tiny_veri, tmp_path):
    whole = embed_all(tiny_veri, None)
    assert len(set(whole.path)) == 32
    together(embed_all, count, tiny_veri, tmp_path, folder=tmp_path)
    for rank in range(count):
        with np.load(tmp_path / f"rank-{rank}.npz") as part:
            assert (part["path"] == whole.path).all()
            assert (part["identity"] == whole.identity).all() and (part["camera"] == whole.camera).all()
            np.testing.assert_allclose(part["embedding"], whole.embedding, rtol=1e-5, atol=1e-6)


def embed_but_one(root, folder):
    group = processes.start()
    data = DataManager(
        root=str(root), sources="veri776", height=32, width=32, batch_size_train=6, num_instances=2, workers=0,
        batch_size_test=5, rank=group.rank, world_size=group.world_size, on_bad_image="skip",
    )  # fmt: skip
    np.save(folder / f"rank-{group.rank}.npy", embed(TinyNet(4), data.test_loader["veri776"]["gallery"]).path)
    processes.stop()


def test_an_image_left_out_leaves_the_others_in_order(tiny_veri, tmp_path):
    files = [Path(path) for path in embed_all(tiny_veri, None).path]
    files[2].write_bytes(b"")
    together(embed_but_one, 2, tiny_veri, tmp_path, folder=tmp_path)
    for rank in range(2):
        assert np.load(tmp_path / f"rank-{rank}.npy").tolist() == [str(path) for path in files[:2] + files[3:]]


def test_batch_norms_are_exchanged_with_their_parameters_and_buffers():
    model = TinyNet(4)
    before = dict(model.named_parameters()), dict(model.named_buffers())
    synchronize_batch_norm(model, CPU)
    assert sum(isinstance(module, GroupBatchNorm) for module in model.modules()) == 3
    for old, new in zip(before, (model.named_parameters(), model.named_buffers()), strict=True):
        assert {name: id(value) for name, value in old.items()} == {name: id(value) for name, value in new}
    images = torch.randn(4, 3, 32, 32)
    model.eval()
    torch.testing.assert_close(model(images), _plain(model)(images))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_activations_in_the_batch_norms_of_timm_stay(device):
    pytest.importorskip("timm", reason="needs the extra timm")
    model = build("bot", 4, pretrained=False, backbone="tf_efficientnet_lite0").eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(images)
        model = synchronize_batch_norm(model, torch.device(device))
        torch.testing.assert_close(model(images), before)
    kind = GroupBatchNorm if device == "cpu" else torch.nn.SyncBatchNorm
    assert list(model.state_dict()) == names and sum(isinstance(module, kind) for module in model.modules()) > 20


def _plain(model):
    twin = TinyNet(4)
    twin.load_state_dict(model.state_dict())
    return twin.eval()
