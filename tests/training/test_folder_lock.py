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


def test_where_files_cannot_be_locked_that_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.files, "fcntl", None)
    with alone(tmp_path):
        assert "lies where files cannot be locked: see that no other run trains into it" in caplog.text
    assert not any(tmp_path.iterdir())
