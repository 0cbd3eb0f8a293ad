"""A row that stands twice is taken once and counted; two rows that contradict each other are refused."""

import pytest

from torchreid_dfrst.data import CityFlow, VehicleID, VeRiWild
from torchreid_dfrst.data.copies import unrepeated
from torchreid_dfrst.data.veri776 import read_labels
from torchreid_dfrst.doctor import check_dataset

VEHICLEID, VERIWILD, CITYFLOW = "VehicleID_V1.0/train_test_split", "VERI-Wild/train_test_split", "AIC20_track2_reid"
LISTS = {
    "VehicleID train": ("vehicleid", VehicleID, f"{VEHICLEID}/train_list.txt"),
    "VehicleID test": ("vehicleid", VehicleID, f"{VEHICLEID}/test_list_800.txt"),
    "VERI-Wild train": ("veriwild", VeRiWild, f"{VERIWILD}/train_list.txt"),
    "VERI-Wild query": ("veriwild", VeRiWild, f"{VERIWILD}/test_3000_query.txt"),
    "VERI-Wild gallery": ("veriwild", VeRiWild, f"{VERIWILD}/test_3000.txt"),
    "VERI-Wild information": ("veriwild", VeRiWild, f"{VERIWILD}/vehicle_info.txt"),
    "CityFlow labels": ("cityflow", CityFlow, f"{CITYFLOW}/train_label.xml"),
    "CityFlow queries": ("cityflow", CityFlow, f"{CITYFLOW}/name_query.txt"),
}


@pytest.fixture
def with_test_labels(cityflow):
    folder = cityflow / CITYFLOW
    (folder / "test_label.xml").write_text((folder / "train_label.xml").read_text())
    (folder / "name_query.txt").write_text("000001.jpg\r\n000005.jpg\r\n")
    (folder / "name_test.txt").write_text("".join(f"{number:06d}.jpg\n" for number in range(2, 9)))


def items(dataset):
    return dataset.train, dataset.query, dataset.gallery


def repeat(path, change=lambda line: line):
    """Let the last row with an image stand again, changed or not."""
    lines = path.read_text().rstrip().splitlines()
    last = next(row for row in range(len(lines) - 1, -1, -1) if any(word in lines[row] for word in ("0", "1")))
    item = lines[last].replace("</Items></TrainingImages>", "")
    path.write_text("\n".join([*lines[:last], item, change(item) + lines[last][len(item) :]]) + "\n")


@pytest.mark.parametrize("case", LISTS)
def test_a_repeated_row_counts_once(case, request, caplog, with_test_labels):
    name, dataset, file = LISTS[case]
    root = request.getfixturevalue(name)
    whole = items(dataset(str(root), verbose=False))
    before = caplog.text.count("repeat an earlier one")
    repeat(root / file)
    assert items(dataset(str(root), verbose=False)) == whole
    assert before == 0 and caplog.text.count("1 row of") >= 1 and file in caplog.text


CONTRADICTIONS = {
    "VehicleID train": lambda row: row[:-1] + "9",
    "VERI-Wild information": lambda row: row.replace(";4;", ";5;"),
    "CityFlow labels": lambda row: row.replace('vehicleID="0006"', 'vehicleID="0007"'),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_rows_that_contradict_each_other_are_refused(case, request, with_test_labels):
    name, dataset, file = LISTS[case]
    root = request.getfixturevalue(name)
    repeat(root / file, CONTRADICTIONS[case])
    with pytest.raises(ValueError, match=r"\d rows? of .*contradicts? an earlier one: "):
        dataset(str(root), verbose=False)


def test_an_image_in_two_tracks_is_refused(cityflow):
    repeat(cityflow / CITYFLOW / "train_track.txt")
    with pytest.raises(
        ValueError, match=r"train_track\.txt contradicts an earlier one: 000003\.jpg \(track 2 and track 3\)"
    ):
        CityFlow(str(cityflow), verbose=False)


def test_labels_of_veri(tiny_veri, caplog):
    folder = tiny_veri / "veri776"
    whole = read_labels(folder)
    path = folder / "train_label.xml"
    sound = path.read_text()
    item = next(line for line in sound.splitlines() if "<Item " in line)
    path.write_text(sound.replace(item, f"{item}\n{item}"))
    assert read_labels(folder) == whole and "1 row of" in caplog.text
    report = check_dataset("veri_format", folder)
    assert report.exit_code == 1 and "repeats an earlier one" in report.text()
    path.write_text(sound.replace(item, item + "\n" + item.replace('colorID="1"', 'colorID="2"')))
    with pytest.raises(ValueError, match="contradict"):
        read_labels(folder)
    report = check_dataset("veri_format", folder)
    assert report.exit_code == 2 and "contradict" in report.text()


def test_a_label_in_both_files_of_veri(tiny_veri):
    folder = tiny_veri / "veri776"
    item = next(line for line in (folder / "train_label.xml").read_text().splitlines() if "<Item " in line)
    text = (folder / "test_label.xml").read_text()
    (folder / "test_label.xml").write_text(
        text.replace("</Items>", item.replace('typeID="1"', 'typeID="3"') + "</Items>")
    )
    with pytest.raises(ValueError, match=r"train_label\.xml and .*test_label\.xml contradict"):
        read_labels(folder)


def test_what_is_left_is_a_dict_of_first_rows():
    assert unrepeated([("b", 1), ("a", 2), ("b", 1)], "a list") == {"b": 1, "a": 2}
    assert list(unrepeated([("b", 1), ("a", 2), ("b", 1)], "a list")) == ["b", "a"]


def test_tracks_of_cityflow_that_do_not_fit_the_images_are_counted(cityflow, caplog):
    CityFlow(str(cityflow), verbose=False)
    assert "21 images are in no track" in caplog.text
    path = cityflow / CITYFLOW / "train_track.txt"
    path.write_text(path.read_text() + "999999.jpg\n")
    CityFlow(str(cityflow), verbose=False)
    assert "1 name that no list has stands in" in caplog.text and "999999.jpg" in caplog.text
