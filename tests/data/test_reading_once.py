"""Each list of a data set is read once: by the data manager, which trains and tests on it, and by the doctor."""

import pickle
from collections import Counter
from pathlib import Path

import pytest
from test_options import manager
from test_parsers import WRITERS

from torchreid_dfrst.data import DATASETS, VehicleID, vehicleid, veriwild
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.evaluation.protocols import PROTOCOLS, of_dataset

NAMES = {"veri": "veri_format", "places": "table"}
IMAGES = (".jpg", ".png")
NEVER = {"list_color.txt", "list_type.txt"}
BY_THE_DOCTOR = {"gt_index.txt", "jk_index.txt", "train_label.xml", "test_label.xml"}


@pytest.fixture
def reads(monkeypatch):
    """How often each file that is no image is read."""
    counted, plain = Counter(), Path.read_bytes

    def read_bytes(path):
        counted[path.name] += path.suffix not in IMAGES
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return counted


def written(folder, name):
    WRITERS[name](folder)
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in IMAGES} - NEVER


@pytest.mark.parametrize("name", WRITERS)
def test_the_data_manager_reads_each_list_once(name, tmp_path, reads):
    lists = written(tmp_path, name) - (BY_THE_DOCTOR if name == "veri" else set())
    data = manager(tmp_path, NAMES.get(name, name))
    assert +reads == dict.fromkeys(lists, 1)
    (dataset,) = data.test_sets.values()
    assert dataset is data.train_set
    if name == "veriwild":
        assert len(dataset.labels) == 12 and reads["vehicle_info.txt"] == 1


@pytest.mark.parametrize("name", WRITERS)
def test_the_doctor_examines_what_was_read(name, tmp_path, reads):
    lists = written(tmp_path, name)
    report = check_dataset(NAMES.get(name, name), tmp_path, images=name == "veri")
    assert report.counts, report.text()
    assert +reads == dict.fromkeys(lists, 1)


def test_a_source_that_is_no_target_and_the_other_way_round(tiny_veri, reads):
    (tiny_veri / "city").symlink_to(tiny_veri / "veri776")
    data = manager(tiny_veri, "veri776", targets=["city", "veri776"])
    assert reads["name_train.txt"] == 2 and [*data.test_sets] == ["city", "veri776"]
    assert data.test_sets["veri776"] is data.train_set is not data.test_sets["city"]


def test_lists_of_other_test_sets_are_read_to_know_what_is_listed(vehicleid, reads):
    report = check_dataset("vehicleid", vehicleid)
    assert report.exit_code == 0 and reads["test_list_1600.txt"] == 1


@pytest.mark.parametrize("name", ["vehicleid", "veriwild", "cityflow", "veri"])
def test_the_protocol_of_a_data_set_is_the_one_of_its_name(name, tmp_path):
    WRITERS[name](tmp_path)
    name = NAMES.get(name, name)
    made = DATASETS[name](root=str(tmp_path), verbose=False)
    assert made.protocol == of_dataset(name) and made.protocol in PROTOCOLS


def test_the_protocol_of_vehicleid_the_other_way_round(vehicleid):
    made = VehicleID(root=str(vehicleid), reverse=True, verbose=False)
    assert made.protocol == of_dataset("vehicleid", {"reverse": True}) == "vehicleid-reversed"


@pytest.mark.parametrize("made", [vehicleid.VehicleID1600, vehicleid.VehicleID13164, veriwild.VeRiWild10000])
def test_a_data_set_with_another_test_list_can_be_sent_to_a_loading_process(made):
    assert pickle.loads(pickle.dumps(made)) is made
    assert f"{made.test_size:,}" in made.__doc__
