"""The way of README from images to a card, through the commands a person types, on a data set of 80 small images."""

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchreid
from layouts import run_with
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_tiny_veri

from torchreid_dfrst.cli import main

ROOT = Path(__file__).parent.parent
SMALL = ["data.height", "64", "data.width", "64", "data.workers", "0", "data.batch_size_train", "8"]
QUICK = [*SMALL, "model.pretrained", "false", "scheduler.warmup_epoch", "0", "scheduler.stepsize", "[1]"]


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(*words, ok=True):
    """Call ``dfrst`` in this process: importing torch anew takes seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([*map(str, words)])
        except SystemExit as stop:
            code = stop.code or 0
    assert (code == 0) is ok, err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


SCORING = ["rerank.k1", "6", "rerank.k2", "3"]


def test_from_images_to_a_card_with_pictures(tiny_run, tmp_path):
    weights = tiny_run / "run" / "weights.safetensors"
    words = [tiny_run / "features.npz", "--weights", weights, "--out", tmp_path, "--lists", "3", *SCORING]
    printed = run("evaluate", *words).out
    card = json.loads((tmp_path / "card.json").read_text())
    assert list(card["rows"]) == ["appearance", "+ ST", "+ re-ranking", "+ ST + re-ranking"]
    for name, row in card["rows"].items():
        assert name in printed and {"mAP", "R1", "R5", "R10", "mINP"} <= set(row)
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [
        "attention.png",
        "ranked.png",
    ]
    for name in pictures:
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert min(picture.size) > 300 and len(set(picture.convert("L").tobytes())) > 30, f"{name} shows nothing"


def test_the_card_as_json_and_appearance_alone(tiny_run, tmp_path):
    words = [
        tiny_run / "features.npz",
        "--out",
        tmp_path,
        "--lists",
        "0",
        "--json",
        "spacetime.model",
        "null",
        *SCORING,
    ]
    card = json.loads(run("evaluate", *words).out)
    assert list(card["rows"]) == ["appearance", "+ re-ranking"]
    bare = json.loads(run("evaluate", *words, "evaluate.rerank", "false").out)
    assert bare["rows"] == {"appearance": card["rows"]["appearance"]}
    assert not (tmp_path / "pictures").exists()


def test_a_checkpoint_serves_as_well_as_the_exported_weights(tiny_run, tmp_path):
    checkpoint = next((tiny_run / "run" / "checkpoints").glob("*.pt"))
    words = ["--weights", checkpoint, "--root", tiny_run / "data", "-t", "veri776", "--workers", "0"]
    run("extract", *words, "--out", tmp_path / "f.npz")
    cards = [
        json.loads(run("evaluate", path, "--out", tmp_path / "o", "--lists", "0", "--json", *SCORING).out)
        for path in (tiny_run / "features.npz", tmp_path / "f.npz")
    ]
    assert cards[0]["rows"] == cards[1]["rows"]


EXTRACT = ["extract", "--weights", "{w}", "--root", "{d}/data", "-t", "veri776", "--out", "{t}/f.npz"]


def extract_with(option, value):
    """The words of an extraction of which one value is wrong."""
    words = list(EXTRACT)
    words[words.index(option) + 1] = value
    return words


MISTAKES = {
    "a misspelt key": (["evaluate", "{f}", "rerank.k_1", "5"], "'k_1' in section 'rerank' (did you mean 'k1'?)"),
    "a word for a number": (["evaluate", "{f}", "rerank.k1", "abc"], "rerank.k1"),
    "a list for a number": (["evaluate", "{f}", "spacetime.weight", "[1]"], "spacetime.weight"),
    "a number for options": (["evaluate", "{f}", "spacetime.options", "5"], "spacetime.options"),
    "training's keys in scoring": (["evaluate", "{f}", "data.root", "x"], "unknown section 'data'"),
    "fewer than no lists": (["evaluate", "{f}", "--lists", "-3", "--out", "{t}"], "--lists is -3"),
    "a number for a yes or no": (["evaluate", "{f}", "evaluate.rerank", "0"], "evaluate.rerank is 0, expected true or"),
    "arrays of another toolbox": (["evaluate", "{t}/yours.npz"], "(its arrays: query_embedding): make it"),
    "no features": (["evaluate", "{d}/none.npz"], "no features at"),
    "other weights": (
        ["evaluate", "{f}", "--out", "{t}", "--weights", "{t}/other.safetensors", *SCORING],
        "not the network that made",
    ),
    "weights that are none, without pictures": (
        ["evaluate", "{f}", "--out", "{t}", "--weights", "{t}/yours.npz", "--lists", "0", *SCORING],
        "not the network that made",
    ),
    "weights that are not there": (["evaluate", "{f}", "--weights", "{t}/none", "--lists", "0"], "no weights at"),
    "more neighbours than images": (
        ["evaluate", "{f}", "--out", "{t}", "rerank.k1", "999"],
        "images: between 1 and 47; evaluate.rerank false leaves re-ranking out",
    ),
    "a photograph as weights": (
        extract_with("--weights", "{t}/photo.jpg"),
        "photo.jpg is torn or not a checkpoint: it",
    ),
    "a folder as weights": (extract_with("--weights", "{t}"), "is a folder, where a file is expected"),
    "a model that the file names": ([*EXTRACT, "--model", "dfrst"], "says itself what network it holds: leave --model"),
    "a size without a model": (
        [*EXTRACT, "--size", "64", "64"],
        "--size and model.NAME are of the network that --model",
    ),
    "weights of a model beside a file of weights": (
        [*EXTRACT, "--model", "dfrst", "model.weights", "x.pth"],
        "model.weights is for training: the weights are those of the file",
    ),
    "no weights": (extract_with("--weights", "{d}/none.pt"), "none.pt"),
    "unknown data set": (extract_with("-t", "veri77"), "no data set 'veri77' (did you mean 'veri776'?)"),
    "an option of another data set": ([*EXTRACT, "data.options.reverse", "true"], "veri776 has no option 'reverse'"),
    "an option without a value": ([*EXTRACT, "data.options.reverse"], "data.options.reverse' has no value"),
    "data set not there": (extract_with("--root", "{t}"), "image_train"),
    "training's keys in extraction": ([*EXTRACT, "data.height", "64"], "'height' in section 'data'"),
    "unknown model": (
        [
            "train",
            "--root",
            "{d}/data",
            "-s",
            "veri776",
            "model.name",
            "dfrst_resnet81",
            "train.max_epoch",
            "1",
            *QUICK,
        ],
        "'dfrst_resnet18'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_it(tiny_run, tmp_path, mistake):
    words, message = MISTAKES[mistake]
    weights = tiny_run / "run" / "weights.safetensors"
    if mistake == "other weights":
        for end in (".safetensors", ".json"):
            (tmp_path / "other").with_suffix(end).write_bytes(weights.with_suffix(end).read_bytes())
        changed = {name: value + 1 for name, value in load_file(weights).items()}
        save_file(changed, tmp_path / "other.safetensors")
    np.savez(tmp_path / "yours.npz", query_embedding=np.ones((2, 3)))
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg")
    places = {"f": tiny_run / "features.npz", "d": tiny_run, "t": tmp_path, "w": weights}
    done = run(*[word.format(**places) for word in words], ok=False)
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last, done.err
    assert "Traceback" not in done.err


def test_a_card_that_cannot_be_written_is_printed_all_the_same(tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("evaluate", tiny_run / "features.npz", "--out", tmp_path / "file", "--lists", "0", *SCORING, ok=False)
    assert done.code == 2 and "+ ST + re-ranking" in done.out and done.err.startswith("error: cannot save ")


def test_what_is_made_to_be_shared_names_no_folder(tiny_run, tmp_path):
    words = [tiny_run / "features.npz", f"--out={tmp_path}", "--lists", "0", *SCORING]
    run("evaluate", *words)
    for path in (tmp_path / "card.json", tiny_run / "run" / "weights.json"):
        told = path.read_text()
        assert str(tiny_run) not in told and str(tmp_path) not in told and str(ROOT) not in told, path


def test_a_state_dict_of_torchreid_becomes_features_and_a_card(tiny_run, tmp_path):
    torch.manual_seed(0)
    model = torchreid.models.build_model("osnet_x0_25", 7, pretrained=False)
    state = {"state_dict": model.state_dict(), "epoch": 1, "rank1": np.float64(0.5)}
    torch.save(state, tmp_path / "model.pth.tar-1")
    words = ["--root", tiny_run / "data", "-t", "veri776", "--out", tmp_path / "f.npz", "--workers", "0"]
    run("extract", "--weights", tmp_path / "model.pth.tar-1", "--model", "osnet_x0_25", "--size", "64", "32", *words)
    card = json.loads(run("evaluate", tmp_path / "f.npz", "--lists", "0", "--json", *SCORING).out)
    assert card["source"]["network"] == {"name": "osnet_x0_25"} and card["source"]["input"] == [64, 32]
    assert card["embedding"] == 512


def test_scripts_train_on_either_layout_of_torchreid(torchreid_layout, tmp_path):
    write_tiny_veri(tmp_path / "data" / "veri776")
    words = ["--root", tmp_path / "data", "-s", "veri776", "-t", "veri776", "--transforms", "random_flip", *QUICK]
    words += ["model.name", "dfrst_resnet18", "train.max_epoch", "1", "train.save_dir", tmp_path / "run"]
    done = run_with(
        torchreid_layout, "tools/train.py", *map(str, words), env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.parametrize(("tool", "key"), [("train", "validation_identities"), ("evaluate", "average_precision")])
def test_every_section_is_listed_with_its_keys(tool, key):
    shown = run(tool, "--list-keys").out
    assert f".{key} " in shown
    assert "  spacetime.weight                    a number or text or null  [null]" in shown.splitlines()
