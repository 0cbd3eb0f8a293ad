"""Whatever stands in a file or a word, its reader ends, and in an error of ours that names it.

``FUZZ_EXAMPLES=400 pytest tests/test_fuzz.py`` tries more.
"""

import json
import os
import string
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchreid_dfrst import config
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.evaluation.card import Card, Result, make_card
from torchreid_dfrst.evaluation.compare_cards import compare, text
from torchreid_dfrst.evaluation.protocols import build as build_protocol
from torchreid_dfrst.inference import open_network
from torchreid_dfrst.models import build
from torchreid_dfrst.retrieval import Extraction, Features, distance, normalise
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.training import checkpoint, sections

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner), max_leaves=6)


def reads(read, path):
    """Whether ``read(path)`` succeeds; anything but an error of ours that names the file fails the test."""
    try:
        return read(path)
    except (ValueError, KeyError, OSError) as error:
        said = str(error.args[0] if isinstance(error, KeyError) else error)
        assert Path(str(path)).stem in said, said
        assert len(said) < 3000 and said.count("\n") < 5, said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def places(tree, found=()):
    """Where something stands in a tree of JSON types."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found, *(place for key, value in inside for place in places(value, (*found, key)))]


@st.composite
def spoilt(draw, tree):
    """A tree with some of its values replaced, or taken out."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 2))):
        where = draw(st.sampled_from(places(tree)))
        if not where:
            return draw(JSON)
        inner = tree
        for key in where[:-1]:
            inner = inner[key]
        if isinstance(inner, dict) and draw(st.booleans()):
            del inner[where[-1]]
        else:
            inner[where[-1]] = draw(JSON)
    return tree


@st.composite
def torn(draw, content):
    """Bytes with some of them changed, or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


LINES = st.lists(st.text(alphabet="ab12.-:[]{},&*!?|>#%@'\"\n\t lrdatoim", max_size=40), max_size=6).map("\n".join)
CONFIGURATION = (Path(__file__).parent.parent / "configs" / "dfrst_veri776.yaml").read_bytes()


@fuzzed
@given(LINES.map(str.encode) | st.binary(max_size=60) | torn(CONFIGURATION) | JSON.map(lambda v: yaml.dump(v).encode()))
def test_a_configuration(place, content):
    (place / "some.yaml").write_bytes(content)
    reads(lambda path: config.load(path, [], sections()), place / "some.yaml")


@fuzzed
@given(spoilt(yaml.safe_load(CONFIGURATION)))
def test_a_configuration_with_other_values(place, content):
    (place / "some.yaml").write_text(json.dumps(content))
    reads(lambda path: config.load(path, [], sections()), place / "some.yaml")


WORDS = st.sampled_from(
    ["optim.lr", "data.options", "data.options.x", "train.max_epoch", "model.name", "spacetime.weight"]
)


@fuzzed
@given(st.lists(st.tuples(WORDS, st.sampled_from(["=", " "]), st.text(max_size=12) | LINES), max_size=3))
def test_words_of_a_command(content):
    words = [
        part for name, sign, value in content for part in ([name + sign + value] if sign == "=" else [name, value])
    ]
    try:
        config.load(None, words, sections())
    except (ValueError, KeyError) as error:
        assert any(name in str(error) for name, *_ in content), error


CELLS = st.sampled_from(
    ["a.jpg", "b.jpg", "1", "-1", "", "train", "query", "gallery", "nan", "1e400", "2026-05-01 16:00:00"]
)
TABLES = st.lists(st.lists(CELLS | st.text(alphabet=string.printable, max_size=6), min_size=3, max_size=7), max_size=5)
HEADER = "path,identity,camera,time,split\n"
WHOLE = (HEADER + "a.jpg,1,1,5,train\nb.jpg,1,2,9,query\nc.jpg,1,3,9.5,gallery\n").encode()


@fuzzed
@given(
    TABLES.map(lambda rows: (HEADER + "\n".join(map(",".join, rows))).encode()) | torn(WHOLE) | st.binary(max_size=80)
)
def test_a_table(place, content):
    (place / "some.csv").write_bytes(content)
    reads(read_rows, place / "some.csv")


def extraction():
    seen = Sightings(np.arange(6) % 3, np.arange(6) * 9.0, np.arange(6) // 3, path=[f"{n}.jpg" for n in range(6)])
    network = CameraNetwork(np.arange(3), 100.0 * abs(np.subtract.outer(np.arange(3), np.arange(3))))
    some = Features(np.random.default_rng(0).normal(size=(6, 4)), seen)
    return Extraction(some[:3], some, seen, some, network, {"data": "toy"})


def arrays():
    """The arrays of a features file, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npz"
        extraction().save(path)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}, path.read_bytes()


COLUMNS, FEATURES = arrays()
ARRAYS = st.sampled_from(
    [np.zeros(0), np.zeros((2, 2, 2)), np.array("word"), np.array(["a"] * 6), np.arange(6), np.arange(3) - 7,
     np.full(6, np.nan), np.array(5), np.array(b"x"), np.arange(6) > 2, np.array([1j] * 6), np.array("{}"),
     np.array("[" * 100_000), np.array("3"), np.zeros(6, dtype=[("a", "i4")]), np.full((6, 4), np.inf)]
)  # fmt: skip


@fuzzed
@given(st.dictionaries(st.sampled_from(sorted(COLUMNS)), ARRAYS | st.none(), min_size=1, max_size=2))
def test_features_with_other_arrays(place, changed):
    columns = {name: value for name, value in (COLUMNS | changed).items() if value is not None}
    np.savez(place / "some.npz", **columns)
    reads(Extraction.load, place / "some.npz")


@fuzzed
@given(torn(FEATURES) | st.binary(max_size=60))
def test_features_that_are_torn(place, content):
    (place / "some.npz").write_bytes(content)
    reads(Extraction.load, place / "some.npz")


def test_features_whose_arrays_are_no_arrays(place):
    with zipfile.ZipFile(place / "some.npz", "w") as file:
        for name in COLUMNS:
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'}\n")
    assert not reads(Extraction.load, place / "some.npz")


def card():
    some, protocol = extraction(), build_protocol()
    [(query, gallery)] = protocol.pairs(some.query, some.gallery)
    pair = query.sightings, gallery.sightings
    found = protocol.score(distance(normalise(query.embedding), normalise(gallery.embedding)), *pair)
    result = Result(protocol, {"appearance": [found]}, [pair], {"spacetime": None}, {}, some, {}, None)
    return make_card(result, some, "dfrst evaluate f.npz")


CARD = json.loads(json.dumps(card().content))


@fuzzed
@given(spoilt(CARD))
def test_a_card(place, content):
    (place / "some.json").write_text(json.dumps(content))
    found = reads(Card.load, place / "some.json")
    if found:
        found.table()
        text(compare({"a": found, "b": Card(CARD)}), {"a": found, "b": Card(CARD)})


@fuzzed
@given(torn(json.dumps(CARD).encode()) | st.binary(max_size=60))
def test_a_card_that_is_torn(place, content):
    (place / "some.json").write_bytes(content)
    reads(Card.load, place / "some.json")


ABOUT = {
    "model": {"name": "baseline_resnet18", "pretrained": False},
    "num_classes": 3, "height": 32, "width": 64, "held_out": ["a.jpg"], "epoch": 1,
    "config": {"data": {"sources": ["a"], "norm_mean": [0.5, 0.5, 0.5]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(place):
    return checkpoint.export(place / "some.safetensors", build("baseline_resnet18", 3, pretrained=False), ABOUT)


@fuzzed
@given(spoilt(ABOUT) | JSON)
def test_what_stands_beside_weights(weights, content):
    weights.with_suffix(".json").write_text(json.dumps(content))
    reads(open_network, weights)
