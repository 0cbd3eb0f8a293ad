import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from torchreid_dfrst import config
from torchreid_dfrst.spatiotemporal import build

SECTIONS = {
    name: config.Keywords(dict.fromkeys(keys, Any))
    for name, keys in {"optim": ["lr", "weight_decay"], "train": ["max_epoch", "save_dir"]}.items()
}


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


def test_a_value_may_follow_an_equals_sign():
    words = ["optim.lr=3e-3", "train.save_dir", "a=b", "train.max_epoch=null", "optim.weight_decay=x=y"]
    assert config.load(None, words, SECTIONS) == {
        "optim": {"lr": 3e-3, "weight_decay": "x=y"},
        "train": {"save_dir": "a=b", "max_epoch": None},
    }


def test_one_entry_of_a_key_that_holds_names_and_values(tmp_path):
    path = write(tmp_path, "net: {options: {a: 1, b: 2}}")
    words = ["net.options.b", "3", "net.options.c=%d.%m"]
    assert config.load(path, words, TYPED)["net"] == {"options": {"a": 1, "b": 3, "c": "%d.%m"}}
    assert config.load(None, ["net.options", "null", *words], TYPED)["net"]["options"] == {"b": 3, "c": "%d.%m"}
    with pytest.raises(ValueError, match=r"net\.lr is \{'x': 1\}, expected a number"):
        config.load(None, ["net.lr", "0.1", "net.lr.x", "1"], TYPED)


@pytest.mark.parametrize(
    "text, value",
    [("1e-4", 1e-4), ("-2.5", -2.5), ("12", 12), ("1.", 1.0), (".5", 0.5), ("1e5x", "1e5x"), ("[60, 1e2]", [60, 100.0]),
     ("1.2.3", "1.2.3"), ("true", True), ("2026-11-22", datetime.date(2026, 11, 22)), ("-7", -7), ("+7", 7),
     ("012", "012"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("0x10", "0x10"), ("0b1", "0b1"), ("1_000", "1_000"),
     ("01.5", "01.5"), (".inf", ".inf"), (".nan", ".nan"), ("0", 0), ("0.5", 0.5)],
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
        ("a: [", ValueError, "is not YAML.* in line 1, column 5"),
        ("optim: {lr: 1}\ntrain: {}\noptim: {lr: 2}", ValueError, "in line 3, column 1: optim stands there twice"),
        ("optim: {lr: 1, lr: 2}", ValueError, "in line 1, column 16: lr stands there twice"),
        ("optim: {lr: {a: 1, b: {c: 1, c: 1}}}", ValueError, "c stands there twice"),
        ("optim: &a {lr: 1}\ntrain: *a", ValueError, r"in line 2, column 8: aliases \(\*name\) are not read"),
        ("optim: {1: 2}", ValueError, "a name that is not text, write it in quotes"),
        ("1: {lr: 1}", ValueError, "a name that is not text"),
        (f"optim: {'[' * 5000}", ValueError, "more than 20 levels"),
        (f"optim: {{lr: {'9' * 5000}}}", ValueError, "is not YAML"),
        ("optim: {lr: 2026-99-99}", ValueError, "is not YAML: month"),
        ("optim: {lr: !!timestamp x}", ValueError, "is not YAML"),
        ("optim: {lr: !!python/name:os.system x}", ValueError, "a type such as !!int, leave it out"),
        ('optim: {lr: !!int "012"}', ValueError, "line 1, column 13: a type such as !!int, leave it out"),
        ("\x00", ValueError, "is not YAML"),
    ],
)
def test_a_typo_is_an_error_that_names_it(tmp_path, text, error, message):
    path = write(tmp_path, text)
    with pytest.raises(error, match=message) as caught:
        config.load(path, [], SECTIONS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message",
    [(["optim.lr"], "has no value"), (["lr", "1"], "no section"), (["optim.lr", "["], "not YAML"),
     (["optim.lr="], "optim.lr is followed by nothing: give a value, or null"), (["optim.lr", " "], "by nothing"),
     (["optim.lr", "1", "train.max_epoch", "2", "optim.lr=3"], "optim.lr is given twice, 1 and 3: leave one out")],
)  # fmt: skip
def test_broken_overrides(overrides, message):
    with pytest.raises(ValueError, match=message):
        config.load(None, overrides, SECTIONS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml", [], SECTIONS)


def test_nine_lines_of_aliases_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="line 2, column 10: aliases"):
        config.load(write(tmp_path, "\n".join(lines)), [], SECTIONS)


def test_a_configuration_that_is_a_folder_or_misspelt_is_said(tmp_path):
    with pytest.raises(ValueError, match="is a folder, where a file is expected"):
        config.load(tmp_path, [], SECTIONS)
    with pytest.raises(FileNotFoundError, match=r"none is shipped by that name \(did you mean 'demo'\?\)"):
        config.load("demoo", [], SECTIONS)


def test_the_list_of_keys_has_types_and_defaults():
    shown = config.listing(TYPED).splitlines()
    assert "  net.parts                           a whole number  [4]" in shown
    assert "  net.file                            text or null  [null]" in shown
    assert any(line.split() == ["net.sizes", *"a list, each a whole number".split(), "[[1]]"] for line in shown)


def test_keys_come_from_signatures():
    def build(model, lr=1, *, decay=2, **kwargs): ...

    def run(lr=3, epochs=4): ...

    assert config.keywords(build, run, leave_out=["epochs"]) == ["lr", "decay"]


def test_what_is_dumped_reads_back(tmp_path):
    given = {"optim": {"lr": 1e-4}, "train": {"save_dir": "runs/a", "max_epoch": 3}}
    assert config.load(write(tmp_path, config.dump(given)), [], SECTIONS) == given


class Network:
    """What a section might be passed to."""

    def __init__(
        self,
        classes: int,
        lr: float = 0.1,
        parts: int = 4,
        flag: bool = False,
        name: str = "a",
        file: str | Path | None = None,
        sizes: Sequence[int] = (1,),
        either: int | Sequence[int] = 1,
        options: Mapping[str, Any] | None = None,
        other: object = None,
    ) -> None: ...


def unannotated(rate=0.5, count=1, keep=True, text="a", nothing=None): ...


TYPED = {"net": config.keywords(Network), "plain": config.keywords(unannotated, text=str)}


@pytest.mark.parametrize(
    "override, value",
    [("net.lr 1", 1), ("net.lr 1e-3", 1e-3), ("net.parts 3", 3), ("net.flag true", True), ("net.name b", "b"),
     ("net.file null", None), ("net.file a.pt", "a.pt"), ("net.sizes [1,2]", [1, 2]), ("net.either 3", 3),
     ("net.either [3]", [3]), ("net.options {a: 1}", {"a": 1}), ("net.options null", None), ("net.other [1]", [1]),
     ("plain.rate 2", 2), ("plain.nothing [a]", ["a"])],
)  # fmt: skip
def test_values_of_the_right_type_pass(override, value):
    dotted, text = override.split(" ", 1)
    section, key = dotted.split(".")
    assert config.load(None, [dotted, text], TYPED)[section][key] == value


@pytest.mark.parametrize(
    "override, expected",
    [("net.lr abc", "'abc', expected a number"), ("net.lr null", "None, expected a number"),
     ("net.lr true", "True, expected a number"), ("net.parts 5.5", "5.5, expected a whole number"),
     ("net.parts true", "True, expected a whole number"), ("net.flag 1", "1, expected true or false"),
     ("net.name 5", "5, expected text"), ("net.file 5", "5, expected text or null"),
     ("net.sizes 3", "3, expected a list, each a whole number"), ("net.sizes ab", "'ab', expected a list"),
     ("net.sizes [1,b]", r"\[1, 'b'\], expected a list, each"),
     ("net.options 5", "5, expected names and values or null"),
     ("net.either x", "'x', expected a whole number or a list, each a whole number"),
     ("plain.rate x", "expected a number"), ("plain.count 1.5", "expected a whole number"),
     ("plain.keep 0", "expected true or false"), ("plain.text 2026-11-22", "expected text")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(override, expected, tmp_path):
    dotted, text = override.split(" ", 1)
    with pytest.raises(ValueError, match=rf"the command line: {dotted} is .*{expected}"):
        config.load(None, [dotted, text], TYPED)
    section, key = dotted.split(".")
    path = write(tmp_path, f"{section}:\n  {key}: {text}\n")
    with pytest.raises(ValueError, match=rf"{path}: {dotted} is "):
        config.load(path, [], TYPED)


def test_options_of_space_time_models_are_checked_too():
    with pytest.raises(ValueError, match="option slope_s of lognormal is 'abc', expected a number"):
        build("lognormal", slope_s="abc")
    assert build("lognormal", slope_s=5, check_units=False).slope_s == 5
    with pytest.raises(ValueError, match="option check_units of histogram is 0, expected true or false"):
        build("histogram", check_units=0)
