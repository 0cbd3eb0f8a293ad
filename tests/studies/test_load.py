"""The study of a shared machine: what it starts it ends, turns are complete, another checkout takes part."""

import json
import sys
from pathlib import Path

import pytest

from tools.studies import load

ROOT = Path(__file__).parents[2]


def run(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    load.main()


def test_every_way_is_measured_under_every_load_and_busy_processes_end(tmp_path, monkeypatch, capsys):
    started, start = [], load.subprocess.Popen
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(load.subprocess, "Popen", lambda words: started.append(start(words)) or started[-1])
    monkeypatch.setattr(load, "in_process", lambda args, way, job: [1.0, 3.0, 2.0 + (way == "ours")])
    out = tmp_path / "load.json"
    run(["--out", out, "--turns", "2", "--ways", "one thread", "ours", "--other", ROOT], monkeypatch)
    found = json.loads(out.read_text())
    assert {len(cells) for job in found.values() for way in job.values() for cells in way.values()} == {6}
    assert [list(way) for way in found["train"].values()] == [list(load.LOADS.values())] * 3
    assert len(started) == 2 * 2 * 3 * 3 and all(process.poll() is not None for process in started)
    said = capsys.readouterr().out
    assert "| one thread | ours | ours, other version |" in said
    assert "| re-ranking, 13,257 x 512, beside two | 2.00 (1.00) | 3.00 (1.50) | 2.00 (1.00) |" in said


def test_when_the_time_is_up_what_was_found_is_shown(tmp_path, monkeypatch, capsys):
    run(["--out", tmp_path / "load.json", "--minutes", "0"], monkeypatch)
    assert capsys.readouterr().out.startswith("the 0 minutes were up\n| seconds")


@pytest.mark.parametrize("job", load.JOBS)
def test_a_job_runs_in_a_process_of_its_own_with_what_dfrst_chooses(job, tmp_path, monkeypatch):
    words = ["--out", tmp_path / "load.json", "--tiny", "--turns", "1", "--repeats", "1", "--jobs", job]
    monkeypatch.setattr(load, "LOADS", {0: "alone"})
    run([*words, "--ways", "ours", "--other", ROOT], monkeypatch)
    found = json.loads((tmp_path / "load.json").read_text())[job]
    assert [len(found[way]["alone"]) for way in ("ours", load.OTHER)] == [1, 1]
