"""Bad luck in training: each ends, or goes on, with one clear message."""

import contextlib
import errno
import io
import os
import pickle
import re
import resource
import signal
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TinyNet
from processes import quick, together
from runs import engine, kill_a_loading_process, newest

from torchreid_dfrst import files, processes
from torchreid_dfrst.data.images import BadImageError
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.losses import DFRSTLoss, LossParts
from torchreid_dfrst.models.weights import read_weights
from torchreid_dfrst.training import checkpoint
from torchreid_dfrst.training.checkpoint import Checkpoints
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.journal import Journal
from torchreid_dfrst.training.memory import keep_freed
from torchreid_dfrst.training.step import NonFiniteError


class Exploding(TinyNet):
    """Gives NaN from the sixth training batch on."""

    batches = 0

    def forward(self, x):
        if self.training:
            self.batches += 1
            x = x * float("nan") if self.batches > 5 else x
        return super().forward(x)


def test_a_loss_that_is_not_finite_stops_with_the_files_and_the_last_good_state(tiny_veri, tmp_path):
    made = engine(tiny_veri, network=Exploding)
    with pytest.raises(NonFiniteError, match=r"step 6 \(epoch 2\) is not finite: loss nan") as error:
        made.run(save_dir=str(tmp_path), max_epoch=4, print_freq=3)
    culprits = _paths(made, epoch=1, batch=1)
    assert len(set(culprits)) > 4 and all(path in str(error.value) for path in culprits)
    good = newest(tmp_path / "checkpoints")
    assert str(good) in str(error.value) and good.name == "step-0000000004.pt"


def test_a_loss_that_is_not_finite_is_told_where_the_last_good_state_cannot_be_found(tiny_veri, tmp_path, monkeypatch):
    class Failing(Exploding):
        def forward(self, x):
            if self.training and self.batches == 5:
                monkeypatch.setattr(checkpoint, "newest", fails)
            return super().forward(x)

    def fails(*_):
        raise OSError("the disk is gone")

    made = engine(tiny_veri, network=Failing)
    said = r"step 6 .* Last good state: unknown \(the disk is gone\)\. Its images: \S*\.jpg"
    with pytest.raises(NonFiniteError, match=said):
        made.run(save_dir=str(tmp_path), max_epoch=4, pictures=False)


@pytest.mark.parametrize("stopped", [False, True])
def test_no_checkpoint_holds_numbers_that_are_not_finite(stopped, tiny_veri, tmp_path):
    class Stopped(Exploding):
        def forward(self, x):
            if stopped and self.training and self.batches == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    made = engine(tiny_veri, network=Stopped)
    with pytest.raises(NonFiniteError, match=r"step 6 .* Last good state: \S*step-0000000004\.pt"):
        made.run(save_dir=str(tmp_path), max_epoch=4, print_freq=100, save_steps=0 if stopped else 2, pictures=False)
    found = checkpoint.all_steps(tmp_path / "checkpoints")
    assert len(found) == (1 if stopped else 2)
    for path in found:
        assert all(torch.isfinite(value).all() for value in checkpoint.load(path)["state_dict"].values()), path


class NoGradient(TinyNet):
    """Finite losses whose gradients are NaN."""

    def forward(self, x):
        out = super().forward(x)
        if self.training:
            for logits in out[0]:
                logits.register_hook(lambda gradient: gradient * float("nan"))
        return out


def test_half_precision_without_a_finite_gradient_is_not_trained_to_the_end(tiny_veri, tmp_path):
    made = engine(tiny_veri, network=NoGradient)
    # the scale is halved from 65536 to below 1 in 17 steps
    with pytest.raises(NonFiniteError, match=r"step 17 .* gradient norm nan.* train\.precision fp32"):
        made.run(save_dir=str(tmp_path), max_epoch=5, precision="fp16", pictures=False)


@pytest.mark.parametrize("saved_after", [None, 1])
def test_half_precision_in_which_no_step_was_taken_is_not_called_trained(saved_after, tiny_veri, tmp_path):
    options = {"save_dir": str(tmp_path), "precision": "fp16", "pictures": False, "resume": "auto"}
    if saved_after:
        # the end of another run: resumed, it has not been trained either
        with pytest.raises(NonFiniteError):
            engine(tiny_veri, network=NoGradient).run(max_epoch=saved_after, **options)
    made = engine(tiny_veri, network=NoGradient)
    with pytest.raises(NonFiniteError, match=r"no update was made: .* of the 8 steps .* 65536 down to 256.* bf16"):
        made.run(max_epoch=2, **options)
    assert not (tmp_path / "weights.safetensors").exists()


def test_half_precision_in_which_one_step_was_taken_is_trained(tiny_veri, tmp_path):
    class OneGradient(TinyNet):
        steps = 0

        def forward(self, x):
            out = super().forward(x)
            self.steps += self.training
            if self.training and self.steps != 3:
                for logits in out[0]:
                    logits.register_hook(lambda gradient: gradient * float("nan"))
            return out

    made = engine(tiny_veri, network=OneGradient)
    made.run(save_dir=str(tmp_path), max_epoch=1, precision="fp16", pictures=False)
    assert made.step.scaler.get_scale() == 2.0**13 and (tmp_path / "weights.safetensors").exists()


def _paths(made, epoch, batch):
    made.sampler.seek(epoch, batch)
    keys = next(iter(made.sampler))
    return [made.train_loader.dataset.items[index][0] for index, *_ in keys]


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on_and_says_so(tiny_veri, tmp_path):
    log = tmp_path / "log"
    process = quick(_with_a_small_disk, tiny_veri, tmp_path / "run", log=log)
    process.join()
    text = log.read_text()
    assert process.exitcode == 0, text[-3000:]
    assert "cannot save" in text and "the checkpoint before it stays, training goes on" in text
    assert "File too large" in text and "enforce fail" not in text, "the system's words, not torch's"
    steps = [int(path.stem[5:]) for path in checkpoint.all_steps(tmp_path / "run" / "checkpoints")]
    assert steps == [4, 16], "after the second and third epoch there was no room"
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))


def _with_a_small_disk(root, folder):
    made = engine(root)
    save = made._save

    def limited(final=False):
        # files may not grow beyond 2 kB while "the disk is full"
        room = 2000 if made.epoch in (2, 3) else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        path = save(final)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return path

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    made._save = limited
    made.run(save_dir=str(folder), max_epoch=4)


def test_a_journal_on_a_full_disk_says_so_and_lets_training_go_on(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path)
    writer = journal.writer
    monkeypatch.setattr(journal.writer, "add_scalar", full)
    journal.write("train", 1, {"loss": 1.0})
    journal.write("train", 2, {"loss": 1.0})
    journal.close()
    assert caplog.text.count("metrics.jsonl cannot be written ([Errno 28] No space left on device)") == 2
    assert caplog.text.count("TensorBoard's file cannot be written") == 1, "after its first failure it is left alone"
    assert "the last lines of" in caplog.text
    writer.close()


def test_a_failed_export_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = checkpoint.export(tmp_path / "weights.safetensors", TinyNet(4), {"epoch": 1})
    before, about = path.read_bytes(), path.with_suffix(".json").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot save .*weights\.safetensors: .*No space left"):
        checkpoint.export(path, TinyNet(4), {"epoch": 2})
    assert path.read_bytes() == before and path.with_suffix(".json").read_bytes() == about
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_at_the_end_is_an_error(tiny_veri, tmp_path, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match=r"No space left on device; there is no checkpoint before it$"):
        engine(tiny_veri).run(save_dir=str(tmp_path), max_epoch=1)


def test_room_that_a_checkpoint_needs_is_said_and_the_one_before_it_stays(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    state = {"state_dict": {"a": torch.zeros(1000, 1000)}, "random": [{"b": [torch.zeros(250_000)]}]}
    said = r"cannot save .*0002\.pt: No space left on device: 5\.0 MB are needed and [\d,.]+ MB are free\. Make room"
    with pytest.raises(OSError, match=said + r".*; the checkpoint before it stays$"):
        checkpoints.save(2, state, final=True)
    assert checkpoints.save(2, state) is None and re.search(said, caplog.text)
    assert newest(tmp_path) == checkpoint.step_path(tmp_path, 1)


def test_an_earlier_checkpoint_of_the_same_step_is_one_before_it(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert checkpoints.save(1, {}) is None and "the checkpoint before it stays" in caplog.text
    assert newest(tmp_path) == checkpoint.step_path(tmp_path, 1)


def test_a_dead_loading_process_is_named(tiny_veri):
    kill_a_loading_process(engine(tiny_veri, workers=1).train_loader)


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (RuntimeError("DataLoader worker (pid(s) 4) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 4) is killed by signal: Killed. "), True),
        (RuntimeError("Pin memory thread exited unexpectedly"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
        (EOFError(), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."), False),
        (EOFError("Caught EOFError in DataLoader worker process 0.\nOriginal Traceback ..."), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
    ],
    ids=repr,
)
def test_only_a_dead_loading_process_is_called_dead(error, dead, tiny_veri, monkeypatch):
    def fails(self):
        raise error
        yield

    loader = engine(tiny_veri, workers=1).train_loader
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", fails)
    with pytest.raises(ChildProcessError if dead else type(error)) as raised:
        next(iter(loader))
    assert dead or raised.value is error


def test_running_out_of_memory_says_what_to_lower(tiny_veri, tmp_path):
    class Greedy(TinyNet):
        def forward(self, x):
            torch.empty(1 << 60, dtype=torch.uint8)
            return super().forward(x)

    with pytest.raises(OSError, match=r"memory ran out .*: lower data\.batch_size_train"):
        engine(tiny_veri, network=Greedy).run(save_dir=str(tmp_path), max_epoch=1)


def test_kept_memory_is_not_cleared_again(tmp_path):
    log = tmp_path / "log"
    process = quick(_count_page_faults, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    before, after = map(int, log.read_text().split())
    assert before > 100 and after < before / 2


def _count_page_faults():
    def faults():
        counted = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(1 << 24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - counted

    print(faults())
    assert keep_freed()
    faults()
    print(faults())


def test_a_folder_that_cannot_be_written_is_named_before_training(tiny_veri, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/run cannot be written .*: choose another"):
        engine(tiny_veri).run(save_dir=str(tmp_path / "file" / "run"), max_epoch=1)


class Weapon:
    """Code that a pickle would run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.write_text, (self.mark, "fired"))


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("where", ["checkpoint", "weights", "resume"])
def test_a_malicious_pickle_is_refused_and_not_run(form, where, tiny_veri, tmp_path):
    mark, path = tmp_path / "fired", tmp_path / "model.pt"
    content = {"format": checkpoint.FORMAT, "state_dict": Weapon(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"refused|not a checkpoint") as refusal:
        if where == "checkpoint":
            checkpoint.load(path)
        elif where == "weights":
            read_weights(path)
        else:
            engine(tiny_veri).run(save_dir=str(tmp_path / "run"), max_epoch=1, resume=str(path))
    assert not mark.exists()
    assert "weights_only" not in str(refusal.value) and "two options" not in str(refusal.value), "advice to run it"
    if form == "torch":
        torch.load(path, weights_only=False)
        assert mark.exists(), "the weapon works where it is not refused"


class Room:
    """Asks for more memory than there is, which a pickle may."""

    def __reduce__(self):
        return (bytearray, (1 << 60,))


def test_a_file_that_asks_for_more_than_it_holds_is_not_short_of_memory(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"K\x03") >= 1
    path.write_bytes(content.replace(b"K\x03", b"\x8a\x08" + (1 << 60).to_bytes(8, "little")))
    with pytest.raises(ValueError, match=r"a\.pt is torn or not a checkpoint: it is no whole"):
        read_weights(path)
    torch.save({"a": Room()}, path)
    with pytest.raises(OSError, match=r"memory ran out while .* where there is plenty, the file asks for more than"):
        read_weights(path)


def test_a_checkpoint_that_could_not_be_loaded_again_is_refused_when_it_is_saved(tmp_path):
    path = checkpoint.save(tmp_path / "a.pt", {"value": 1})
    with pytest.raises(
        checkpoint.UnreadableError, match=r"could not be loaded again.* state\['a'\]\[1\] is of type nda"
    ):
        checkpoint.save(path, {"a": [1, np.ones(2)]})
    assert checkpoint.load(path)["value"] == 1 and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("value", [lambda step: 1, LossParts(1, 2, 3), defaultdict(int), Weapon(0)])
def test_whatever_a_checkpoint_is_saved_with_loads_or_is_refused(value, tmp_path):
    with pytest.raises(
        checkpoint.UnreadableError, match=rf"state\['scheduler'\]\['lr'\] is of type {type(value).__name__}"
    ):
        checkpoint.save(tmp_path / "a.pt", {"scheduler": {"lr": value}})
    assert not list(tmp_path.iterdir())
    held = {
        "a": OrderedDict(b=torch.ones(2)),
        "c": Counter("aa"),
        "d": (np.float64(1), np.int64(2), None, b"x", {1}, torch.Size([2]), 1j),
    }
    found = checkpoint.load(checkpoint.save(tmp_path / "b.pt", held))
    assert {name: str(found[name]) for name in held} == {name: str(value) for name, value in held.items()}


def test_a_picture_that_cannot_be_drawn_ends_no_training(tiny_veri, tmp_path, monkeypatch, caplog):
    def bad(*_):
        raise BadImageError("image.jpg", "it is torn")

    monkeypatch.setattr("torchreid_dfrst.training.engine.draw", bad)
    engine(tiny_veri, network=TinyNet).run(str(tmp_path), max_epoch=1)
    assert re.search(r"no pictures of veri776 after epoch 1 \(.*image\.jpg.*\): training goes on", caplog.text)


class OneExplodes(TinyNet):
    """Gives NaN in the second process, from the third training batch on."""

    batches = 0

    def forward(self, x):
        if self.training:
            self.batches += 1
            if processes.current().rank == 1 and self.batches > 2:
                x = x * float("nan")
        return super().forward(x)


class OneIsInfinite(DFRSTLoss):
    """Infinite in the second process in the third step, with gradients that are finite."""

    steps = 0

    def forward(self, *tensors):
        self.steps += 1
        parts = super().forward(*tensors)
        if self.steps == 3 and processes.current().rank == 1:
            return parts._replace(total=parts.total + float("inf"))
        return parts


def _one_is_not_finite(root, folder, precision, infinite):
    processes.start()
    made = engine(root, network=TinyNet if infinite else OneExplodes)
    made.loss = OneIsInfinite() if infinite else made.loss
    with pytest.raises(NonFiniteError) as error:
        made.run(str(folder), max_epoch=1, pictures=False, precision=precision, save_steps=2)
    print(f"said: {error.value}")
    processes.stop()


@pytest.mark.parametrize(("precision", "infinite"), [("fp32", False), ("fp16", False), ("fp32", True)])
def test_all_processes_say_the_same_of_a_step_that_is_not_finite(precision, infinite, tiny_veri, tmp_path):
    together(_one_is_not_finite, 2, tiny_veri, tmp_path / "run", precision, infinite, folder=tmp_path)
    one, other = ((tmp_path / f"process-{rank}.log").read_text().split("said: ")[1] for rank in range(2))
    assert one == other and one.startswith(f"step 3 (epoch 1) is not finite: loss {'inf' if infinite else 'nan'}")
    assert "step-0000000002.pt" in one and one.count(".jpg") == 8, "all files of the batch"
    assert [path.stem[-2:] for path in checkpoint.all_steps(tmp_path / "run" / "checkpoints")] == ["02"]


def test_a_description_becomes_json_or_is_refused(tiny_veri):
    made = engine(tiny_veri)
    parts = made.datamanager, made.model, made.optimizer
    about = DFRSTEngine(*parts, use_gpu=False, describe={"a": np.float64(1), "b": (1, 2)}).describe
    assert about == {"a": 1.0, "b": [1, 2]} and type(about["a"]) is float
    with pytest.raises(ValueError, match="JSON types alone"):
        DFRSTEngine(*parts, use_gpu=False, describe={"a": Path("here")})


def test_a_file_torn_as_it_is_written_takes_no_place(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "a.pt", {"value": torch.ones(100)})
    whole = torch.save

    def flips_a_bit(state, file):
        memory = io.BytesIO()
        whole(state, memory)
        content = bytearray(memory.getvalue())
        content[content.index(np.ones(100, np.float32).tobytes()) + 9] ^= 1
        file.write(content)

    monkeypatch.setattr(torch, "save", flips_a_bit)
    with pytest.raises(OSError, match=r"cannot save .*a\.pt.*does not match its checksum"):
        checkpoint.save(path, {"value": torch.ones(100)})
    assert checkpoint.load(path)["value"].sum() == 100 and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("what", ["checkpoint", "export", "result"])
def test_what_is_saved_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(what, tmp_path, monkeypatch):
    seen = []

    def fsync(handle):
        # the name of a temporary file has the process and a word of its own
        seen.append(re.sub(r"\.[^.]+-\d+-\w+\.part$", ".part", Path(os.readlink(f"/proc/self/fd/{handle}")).name))

    def replace(source, target, whole=os.replace):
        seen.append(f"-> {Path(target).name}")
        whole(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    folder = tmp_path.name
    if what == "checkpoint":
        checkpoint.save(tmp_path / "a.pt", {})
        assert seen == ["a.pt.part", "-> a.pt", folder]
    elif what == "export":
        checkpoint.export(tmp_path / "a.safetensors", TinyNet(4), {})
        assert seen == ["a.safetensors.part", "a.json.part", "-> a.safetensors", folder, "-> a.json", folder]
    else:
        files.write({tmp_path / "a.json": b"{}"})
        assert seen == ["a.json.part", "-> a.json", folder]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(number, fails, tmp_path, monkeypatch):
    def refuses(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match="Input/output") if fails else contextlib.nullcontext():
        files.sync_folder(tmp_path)


def test_weights_of_another_architecture_are_refused_with_names(tmp_path):
    checkpoint.export(tmp_path / "weights.safetensors", TinyNet(5), {})
    with pytest.raises(ValueError, match=r"another architecture than TinyNet: .* of another shape \(classifiers\.0"):
        checkpoint.set_weights(TinyNet(4), read_weights(tmp_path / "weights.safetensors"), "a file")
    with pytest.raises(ValueError, match="1 missing"):
        state = TinyNet(4).state_dict()
        state.pop("body.0.weight")
        checkpoint.set_weights(TinyNet(4), state, "a file")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_weights(tmp_path / "torn.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "nowhere.pt")


def test_too_few_identities_for_a_batch_are_said(tiny_veri):
    with pytest.raises(ValueError, match="needs 8 identities, the training set has 4"):
        DataManager(root=str(tiny_veri), sources="veri776", batch_size_train=32, num_instances=4)
