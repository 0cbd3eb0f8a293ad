"""One training per folder: the second is refused at once, and a dead process holds nothing."""

import os
import signal
import time

import pytest
from processes import quick
from runs import engine

from torchreid_dfrst.training import folder_lock as module
from torchreid_dfrst.training.folder_lock import RUNNING, alone


def hold(folder, ready):
    with alone(folder):
        ready.touch()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains into ``tmp_path / "run"``."""
    process = quick(hold, tmp_path / "run", tmp_path / "ready", log=tmp_path / "log")
    while not (tmp_path / "ready").exists():
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_second_training_is_refused_before_it_touches_anything(holder, tiny_veri, tmp_path):
    before = sorted((tmp_path / "run").rglob("*"))
    for resume in (None, "auto"):
        with pytest.raises(OSError, match=rf"run is being trained into by process {holder.pid} on .*: wait for it"):
            engine(tiny_veri).run(save_dir=str(tmp_path / "run"), max_epoch=1, resume=resume)
    assert sorted((tmp_path / "run").rglob("*")) == before and holder.is_alive()


def test_a_process_that_was_killed_holds_nothing(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run" / RUNNING).exists()
    with alone(tmp_path / "run"), alone(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / RUNNING).read_text()
    assert not any((tmp_path / "run").iterdir())


def test_another_machine_holds_a_folder_as_long_as_it_gives_signs_of_life(tmp_path, monkeypatch):
    sign = tmp_path / RUNNING
    sign.write_text("process 7 on elsewhere (0123)\n")
    with pytest.raises(
        OSError, match=r"by process 7 on elsewhere, which gave a sign of life \d s ago: .* in 1[78]\d s"
    ):
        with alone(tmp_path):
            pass
    assert sign.read_text() == "process 7 on elsewhere (0123)\n"
    os.utime(sign, (time.time() - module.DEAD_S - 1,) * 2)
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    with alone(tmp_path):
        os.utime(sign, (0, 0))
        time.sleep(0.2)
        assert time.time() - sign.stat().st_mtime < 60, "a run gives signs of life"
    assert not sign.exists()


def test_a_lock_that_does_not_reach_the_other_machine_is_not_needed(tmp_path, monkeypatch):
    """Without locks, as on some network file systems, the file and its age decide."""
    monkeypatch.setattr(module.files, "fcntl", None)
    with alone(tmp_path):
        monkeypatch.setattr(module, "_mine", set())  # as in another process
        with pytest.raises(OSError, match=r"is being trained into by process .*, which gave a sign of life \d s ago"):
            with alone(tmp_path):
                pass
    assert not any(tmp_path.iterdir())


def test_of_two_that_start_in_the_same_moment_without_locks_the_last_goes_on(tmp_path, monkeypatch):
    other = "process 7 on elsewhere (0123)\n"
    monkeypatch.setattr(module.files, "fcntl", None)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: (tmp_path / RUNNING).write_text(other))
    with pytest.raises(OSError, match="by process 7 on elsewhere, which started in the same moment"):
        with alone(tmp_path):
            pass
    assert (tmp_path / RUNNING).read_text() == other
