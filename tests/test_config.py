import datetime

import pytest

from torchreid_dfrst import config

SECTIONS = {"optim": ["lr", "weight_decay"], "train": ["max_epoch", "save_dir"]}


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_overrides_win_and_values_are_yaml(tmp_path):
    path = write(tmp_path, "optim: {lr: 1e-4}\ntrain:\n  max_epoch: 135\n")
    assert config.load(path, ["optim.lr", "3e-3", "train.save_dir", "null"], SECTIONS) == {
        "optim": {"lr": 3e-3},
        "train": {"max_epoch": 135, "save_dir": None},
    }


@pytest.mark.parametrize(
    "text, value",
    [("1e-4", 1e-4), ("-2.5", -2.5), ("12", 12), ("1.", 1.0), (".5", 0.5), ("1e5x", "1e5x"), ("[60, 1e2]", [60, 100.0]),
     ("1.2.3", "1.2.3"), ("true", True), ("2026-11-22", datetime.date(2026, 11, 22))],
)  # fmt: skip
def test_numbers_are_read_as_python_reads_them(text, value):
    read = config.load(None, ["optim.lr", text], SECTIONS)["optim"]["lr"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("optm: {lr: 1}", KeyError, "unknown section 'optm' .*'optim'"),
        ("optim: {weight_dcay: 1}", KeyError, "unknown key 'weight_dcay' in section 'optim' .*'weight_decay'"),
        ("optim: 3", ValueError, "section 'optim' is 3"),
        ("- a\n- b", ValueError, "holds list"),
        ("a: [", ValueError, "is not YAML"),
    ],
)
def test_a_typo_is_an_error_that_names_it(tmp_path, text, error, message):
    path = write(tmp_path, text)
    with pytest.raises(error, match=message) as caught:
        config.load(path, [], SECTIONS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message", [(["optim.lr"], "has no value"), (["lr", "1"], "no section"), (["optim.lr", "["], "not YAML")]
)
def test_broken_overrides(overrides, message):
    with pytest.raises(ValueError, match=message):
        config.load(None, overrides, SECTIONS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml", [], SECTIONS)


def test_keys_come_from_signatures():
    def build(model, lr=1, *, decay=2, **kwargs): ...

    def run(lr=3, epochs=4): ...

    assert config.keywords(build, run, leave_out=["epochs"]) == ["lr", "decay"]


def test_what_is_dumped_reads_back(tmp_path):
    given = {"optim": {"lr": 1e-4}, "train": {"save_dir": "runs/a", "max_epoch": 3}}
    assert config.load(write(tmp_path, config.dump(given)), [], SECTIONS) == given
