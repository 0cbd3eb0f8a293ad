"""``dfrst rank``: the last row of ``dfrst evaluate`` as a table, without any identity."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from torchreid_dfrst import evaluation
from torchreid_dfrst.cli import main
from torchreid_dfrst.evaluation.nearest import rank
from torchreid_dfrst.files import written_as
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings


@pytest.fixture
def blind():
    rng = np.random.default_rng(0)

    def part(name, count):
        seen = Sightings(rng.integers(0, 3, count), path=np.array([f"{name}{k}" for k in range(count)]))
        return Features(rng.normal(size=(count, 8)), seen)

    return Extraction(part("q", 5), part("g", 40))


@pytest.mark.parametrize(("rerank", "row"), [(True, "+ re-ranking"), (False, "appearance")])
def test_the_ranking_is_that_of_evaluate(blind, rerank, row):
    name, found = rank(blind, 4, {"model": None}, evaluate={"rerank": rerank})
    parts = ((k, part.embedding, part.sightings.path) for k, part in enumerate((blind.query, blind.gallery)))
    labelled = Extraction(
        *(Features(x, Sightings(np.full(len(x), k), identity=np.arange(len(x)), path=path)) for k, x, path in parts)
    )
    result = evaluation.score(labelled, {"model": None}, evaluate={"rerank": rerank, "protocol": "no-junk"})
    index, distance = result.best[row].index[:, :4], result.best[row].distance[:, :4]
    assert (
        name == row
        and found["query"] == [f"q{k}" for k in range(5) for _ in range(4)]
        and found["rank"] == [1, 2, 3, 4] * 5
    )
    assert found["gallery"] == [f"g{k}" for k in index.ravel()]
    np.testing.assert_array_equal(np.float32(found["distance"]), distance.ravel())


def test_a_query_does_not_find_its_copy_in_another_folder(blind):
    seen = blind.gallery.sightings
    paths = {name: np.array([f"{name}/{path}" for path in seen.path]) for name in ("image_query", "image_test")}
    timed = {name: replace(seen, path=path, time_s=np.arange(40.0)) for name, path in paths.items()}
    query, gallery = (Features(blind.gallery.embedding, timed[name]) for name in ("image_query", "image_test"))
    _, found = rank(Extraction(query[:5], gallery), 3, {"model": None}, evaluate={"rerank": False})
    pairs = list(zip(found["query"], found["gallery"], strict=True))
    assert len(pairs) == 15 and all(q.split("/")[1] != g.split("/")[1] for q, g in pairs)


def test_names_that_tell_no_images_apart_take_none_away(blind):
    paths = np.array([f"{row}/crop.jpg" for row in range(40)])
    still = replace(blind.gallery.sightings, camera=np.zeros(40, np.int64), time_s=np.zeros(40))
    query, gallery = (Features(blind.gallery.embedding, replace(still, path=path)) for path in (paths, paths))
    _, found = rank(Extraction(query[:5], gallery), 39, {"model": None}, evaluate={"rerank": False})
    assert len(found["query"]) == 5 * 39 and all(q != g for q, g in zip(found["query"], found["gallery"], strict=True))


def test_probabilities_are_those_of_the_calibration_and_refused_once_re_ranked(blind):
    rng = np.random.default_rng(2)
    who = np.repeat(np.arange(12), 6)
    train = Features(
        rng.normal(size=(12, 8))[who] + rng.normal(size=(72, 8)), Sightings(np.tile([0, 1, 2], 24), None, who)
    )
    blind = replace(blind, train_features=train)
    plain = {"model": None}
    _, found = rank(blind, 4, plain, evaluate={"rerank": False}, strangers=0.3)
    law = evaluation.calibrate(blind, None)
    expected = law.probability(np.array(found["distance"]), None, len(blind.gallery), 0.3)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"no probability of re-ranked distances .*evaluate.rerank false"):
        rank(blind, 4, plain, strangers=0.3)
    with pytest.raises(ValueError, match="no probability without 8 training vehicles"):
        rank(replace(blind, train_features=None), 4, plain, evaluate={"rerank": False}, strangers=0.3)


def test_a_query_does_not_find_itself(blind):
    both = Extraction(blind.gallery[:5], blind.gallery)
    _, found = rank(both, 3, {"model": None}, evaluate={"rerank": False})
    assert all(q != g for q, g in zip(found["query"], found["gallery"], strict=True)) and len(found["query"]) == 15
    _, all_of_them = rank(both, 100, {"model": None}, evaluate={"rerank": False})
    assert len(all_of_them["rank"]) == 5 * 39


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_files(blind, tmp_path, ending, capsys):
    blind.save(tmp_path / "f.npz")
    out = tmp_path / f"ranked.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    main(["rank", str(tmp_path / "f.npz"), "--top", "2", "--out", str(out), "spacetime.model", "null"])
    assert "ranked by + re-ranking" in capsys.readouterr().err
    if ending == "csv":
        lines = list(csv.DictReader(out.open()))
    elif ending == "json":
        lines = json.loads(out.read_text())
    else:
        lines = __import__("pyarrow.parquet").parquet.read_table(out).to_pylist()
    assert len(lines) == 10 and list(lines[0]) == ["query", "rank", "gallery", "distance"] and lines[0]["query"] == "q0"


@pytest.mark.parametrize(
    ("name", "message"), [("r.txt", "ends in '.txt': .csv, .json or .parquet"), ("r.parquet", "needs pyarrow")]
)
def test_what_cannot_be_written_is_said_at_once(tmp_path, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=message):
        written_as(tmp_path / name, {})
