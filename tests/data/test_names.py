"""Messages name cameras and vehicles as the user's file does."""

import numpy as np
import pytest

from torchreid_dfrst.data import CityFlow, Table, VehicleID, VeRi776, VeRiFormat, VeRiWild
from torchreid_dfrst.data.table import read_distances, read_rows
from torchreid_dfrst.doctor import check_dataset


def names(part):
    return {(str(c), str(v)) for c, v in zip(part.camera_name, part.vehicle_name, strict=True)}


def test_veri(tiny_veri, veri_lists):
    dataset = VeRi776(root=str(tiny_veri), verbose=False)
    train = dataset.sightings["train"]
    assert (train.camera_called(2), train.vehicle_called(7)) == ("c003", "0007")
    assert len(names(train)) == 16 and names(train) >= {("c001", "0001"), ("c004", "0005")}
    assert sorted(dataset.network.names) == ["c001", "c002", "c003", "c004"]
    assert all(dataset.network.called(label) == f"c{label + 1:03d}" for label in dataset.network.cameras)
    assert VeRiFormat.read(veri_lists, images=False).network.called(6) == "c007"


def test_a_table(tmp_path):
    rows = ["1.jpg,blue van,north gate,1,train", "2.jpg,cab,bridge,2,query", "3.jpg,cab,north gate,3,gallery"]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    (tmp_path / "cameras.csv").write_text("camera,x,y\nnorth gate,0,0\nbridge,30,40\n")
    sightings, _, _, cameras = read_rows(tmp_path / "table.csv")
    network = read_distances(tmp_path, cameras)
    assert [sightings.camera_called(label) for label in sightings.camera] == ["north gate", "bridge", "north gate"]
    assert sightings.vehicle_called(sightings.identity[0]) == "blue van"
    assert [network.called(label) for label in sightings.camera] == ["north gate", "bridge", "north gate"]


def test_numbers_with_leading_zeros_of_a_table(tmp_path):
    (tmp_path / "table.csv").write_text("path,identity,camera,split\n1.jpg,0042,007,train\n2.jpg,0043,010,train\n")
    sightings = read_rows(tmp_path / "table.csv")[0]
    assert (sightings.camera_called(7), sightings.vehicle_called(42)) == ("007", "0042")


def test_the_others(vehicleid, veriwild, cityflow):
    assert names(VehicleID(str(vehicleid), verbose=False).sightings["query"]) == {("", str(v)) for v in range(9, 14)}
    query = VeRiWild(str(veriwild), verbose=False).sightings["query"]
    assert (query.camera_called(4), query.vehicle_called(7)) == ("4", "00007")
    train = CityFlow(str(cityflow), verbose=False).sightings["train"]
    assert (train.camera_called(5), train.vehicle_called(2)) == ("c006", "0002")


def test_the_loader_and_the_doctor_use_them(tmp_path, caplog):
    rng, rows = np.random.default_rng(0), []
    for vehicle in range(30):
        for split in ("train", "gallery"):
            start = rng.uniform(0, 1000)
            for place, camera in enumerate(("north gate", "bridge", "harbour")):
                rows.append(f"{split}{vehicle}{place}.jpg,{split} {vehicle},{camera},{start + 50 * place},{split}")
    rows += ["q.jpg,gallery 3,quay,0,query", "r.jpg,lone van,bridge,0,train"]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    (tmp_path / "distances.csv").write_text(
        "quay,north gate,bridge,harbour\n0,10,500,900\n10,0,500,9000\n500,500,0,500\n900,9000,500,0\n"
    )
    found = {f.check: f.examples for f in check_dataset("table", tmp_path, images=False).findings}
    assert found["cameras never seen in training"] == ["camera quay"]
    assert found["one-camera vehicles"] == ["lone van"]
    (pair,) = found["distances too long"]
    assert "harbour" in pair and "north gate" in pair
    caplog.clear()
    Table(str(tmp_path), verbose=False)
    assert "1 of 31 training vehicles" in caplog.text and ": lone van" in caplog.text


@pytest.mark.parametrize("order", ["c003 c001 c004 c002", "C003, C001, C004, C002", "3,1,4,2"])
def test_the_order_of_the_cameras_may_be_written_by_name(tiny_veri, order):
    (tiny_veri / "veri776" / "camera_ID.txt").write_text(order)
    assert VeRi776(root=str(tiny_veri), verbose=False).network.cameras.tolist() == [2, 0, 3, 1]
