"""One camera, or none: said, with the way to train and score without cameras."""

import json

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst import evaluation
from torchreid_dfrst.cli import main
from torchreid_dfrst.data import Table
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings


@pytest.fixture
def yard(tmp_path):
    """``one`` camera called yard, and ``none``: eight vehicles with four images each."""
    rng = np.random.default_rng(0)
    rows, values, looks = ["path,identity,camera,split"], [], rng.normal(size=(8, 16))
    for v in range(8):
        for k in range(4):
            name = f"{v}_{k}.png"
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
            rows.append(f"{name},{v},yard,{'train' if v < 4 else 'query' if k == 0 else 'gallery'}")
            values.append(looks[v] + rng.normal(size=16))
    (tmp_path / "one.csv").write_text("\n".join(rows) + "\n")
    rows = [row.replace(",yard", "").replace(",camera", "") for row in rows]
    (tmp_path / "none.csv").write_text("\n".join(rows) + "\n")
    np.save(tmp_path / "e.npy", np.array(values, dtype=np.float32))
    return tmp_path


def imported(yard, table, *words):
    command = f"import --embeddings {yard}/e.npy --table {yard}/{table}.csv --out {yard}/f.npz".split()
    main([*command, *words])
    return str(yard / "f.npz")


def test_it_is_said(yard, caplog, capsys):
    Table(str(yard / "one.csv"), verbose=False)
    assert "all images of query and gallery are from camera yard, so every match is junk" in caplog.text
    report = check_dataset("table", yard / "one.csv", images=False)
    assert report.exit_code == 2 and "evaluate.protocol no-junk" in report.text()
    said = r"no column 'camera'.*data\.options\.cameras none, dfrst import --cameras none"
    with pytest.raises(ValueError, match=said):
        Table(str(yard / "none.csv"), verbose=False)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", imported(yard, "one"), "spacetime.model", "null"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stop.value.code == 2 and "all images are from camera yard" in line and "evaluate.protocol no-junk" in line


@pytest.mark.parametrize("table", ["one", "none"])
def test_without_cameras(yard, capsys, table):
    features = imported(yard, table, "--cameras", "none")
    capsys.readouterr()
    main(["evaluate", features, "spacetime.model", "null", "evaluate.rerank", "false", "--lists", "0", "--json"])
    card = json.loads(capsys.readouterr().out)
    assert card["protocol"]["name"] == "no-junk" and card["queries"]["used"] == 4
    assert card["rows"]["appearance"]["mAP"] > 25
    path = str(yard / f"{table}.csv")
    assert check_dataset("table", path, cameras="none").exit_code == 0
    data = DataManager(
        path, "table", "table", 16, 16, workers=0, use_gpu=False, options={"cameras": "none"},
        validation_identities=2, batch_size_train=4, num_instances=2,
    )  # fmt: skip
    asked, shown = (data.validation[part].images.items for part in ("query", "gallery"))
    assert len(asked) == 2 and len(shown) == 6 and not {item[2] for item in asked} & {item[2] for item in shown}


def test_other_words_are_refused(yard):
    with pytest.raises(ValueError, match="cameras is 'some': none, or leave it out"):
        Table.read(yard / "one.csv", cameras="some")


def test_without_cameras_no_rule_can_be_about_them():
    seen = Sightings(np.zeros(4, dtype=int), identity=np.arange(4) // 2)
    part = Features(np.eye(4), seen)
    extraction = Extraction(part, part, source={"data": "table", "options": {"cameras": "none"}})
    with pytest.raises(ValueError, match=r"protocol other-cameras takes out .* cameras none: no-junk ranks all images"):
        evaluation.score(extraction, {"model": None}, evaluate={"rerank": False, "protocol": "other-cameras"})
