"""``dfrst split``: folds of whole vehicles, which the table's reader takes as they are."""

import pytest

from torchreid_dfrst.cli import main
from torchreid_dfrst.data import Table
from torchreid_dfrst.data.folds import split_table


def write(folder, header="path,identity,camera,time"):
    folder.mkdir()
    rows = [f"{v}_{c}_{k}.jpg,van {v},{c},{10 * v + c}" for v in range(12) for c in range(3) for k in range(2)]
    rows += ["lone.jpg,bus,1,5", "who.jpg,?,2,7"]
    (folder / "all.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "distances.csv").write_text("0,1,2\n0,9,9\n9,0,9\n9,9,0\n")
    return folder / "all.csv"


def test_folds(tmp_path, caplog):
    table, tested = write(tmp_path / "a"), []
    for path, _ in split_table(table, folds=3):
        data = Table(str(path), verbose=False)
        train, query, gallery = data.sightings.values()
        test = set(gallery.vehicle_name) - {"?"}
        assert not test & set(train.vehicle_name) and set(query.vehicle_name) <= test
        pairs = set(zip(query.identity.tolist(), query.camera.tolist(), strict=True))
        assert len(pairs) == len(query) == 3 * len(test - {"bus"})
        assert set(query.path) <= set(gallery.path) and "?" in gallery.vehicle_name and "?" not in train.vehicle_name
        assert len(train) + len(gallery) == 74 and data.network is not None
        tested += test
    assert sorted(tested) == sorted([*(f"van {v}" for v in range(12)), "bus"])
    assert "1 vehicle of" in caplog.text and "seen by one camera and gives no query: bus" in caplog.text
    assert "1 image of" in caplog.text and "has no identity: in every gallery" in caplog.text


def test_a_seed_and_another_folder(tmp_path, capsys):
    table = write(tmp_path / "a")
    main(["split", str(table), "--folds", "2", "--seed", "3", "--out", str(tmp_path / "b")])
    first = [(tmp_path / "b" / f"all-fold{k}.csv").read_text() for k in (1, 2)]
    assert [
        text for _, text in split_table(table, 2, 3, tmp_path / "b")
    ] and "all-fold2.csv: " in capsys.readouterr().err
    assert first == [(tmp_path / "b" / f"all-fold{k}.csv").read_text() for k in (1, 2)]
    list(split_table(table, 2, 4, tmp_path / "b"))
    assert first[0] != (tmp_path / "b" / "all-fold1.csv").read_text(), "another seed"
    data = Table(str(tmp_path / "b" / "all-fold1.csv"), verbose=False)
    assert str(tmp_path / "b" / ".." / "a") in data.sightings["query"].path[0] and data.network is not None
    # a table that has a split is split anew
    again = [path for path, _ in split_table(tmp_path / "b" / "all-fold1.csv", 2)]
    assert len(Table(str(again[0]), verbose=False).query) > 6


def test_another_folder_for_a_table_without_distances(tmp_path):
    table = write(tmp_path / "a")
    (tmp_path / "a" / "distances.csv").unlink()
    assert len(list(split_table(table, 2, out=tmp_path / "deep" / "er"))) == 2


@pytest.mark.parametrize(
    ("header", "folds", "message"),
    [
        ("path,identity,camera,time", 1, "folds is 1: 2 or more"),
        ("path,identity,camera,time", 9, "13 .*vehicles are too few for 9 folds"),
        ("path,colour,camera,time", 2, "no identity in any row"),
        ("path,identity,place,time", 2, "no column 'camera'"),
    ],
)
def test_what_cannot_be_split(tmp_path, header, folds, message):
    with pytest.raises(ValueError, match=message):
        list(split_table(write(tmp_path / "a", header), folds))
