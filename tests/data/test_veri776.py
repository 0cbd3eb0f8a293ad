"""VeRi-776 as torchreid meets it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torchreid

from torchreid_dfrst.data import DATASETS, City, VeRi776, VeRiFormat
from torchreid_dfrst.data.veri776 import read_labels


def test_what_torchreid_gets(tiny_veri):
    dataset = VeRi776(root=str(tiny_veri), verbose=False)
    assert isinstance(dataset, torchreid.data.ImageDataset)
    assert {pid for _, pid, *_ in dataset.train} == {0, 1, 2, 3}
    assert {pid for _, pid, *_ in dataset.query} == {pid for _, pid, *_ in dataset.gallery} == {2, 4, 6, 8}
    assert {camid for _, _, camid, *_ in dataset.train} == {0, 1, 2, 3}
    assert (dataset.num_train_pids, dataset.num_train_cams) == (4, 4)
    query, gallery = ({Path(item[0]).name for item in part} for part in (dataset.query, dataset.gallery))
    assert query < gallery, "the query images stay in the gallery"


@pytest.mark.parametrize("combineall", [False, True])
def test_sightings_go_row_for_row(tiny_veri, combineall):
    dataset = VeRi776(root=str(tiny_veri), verbose=False, combineall=combineall)
    assert len(dataset.train) == (80 if combineall else 32)
    for split in ("train", "query", "gallery"):
        items, sightings = getattr(dataset, split), dataset.sightings[split]
        assert [item[0] for item in items] == list(sightings.path)
        assert [item[2] for item in items] == list(sightings.camera)
        pids = np.array([item[1] for item in items])
        if split == "train":
            assert len({*zip(pids, sightings.identity, strict=True)}) == len(np.unique(pids))
        else:
            np.testing.assert_array_equal(pids, sightings.identity)


def test_the_data_manager_takes_it(tiny_veri):
    """torchreid makes one data set for training and one each for query and gallery."""
    name = "tiny_for_this_test"
    torchreid.data.register_image_dataset(name, VeRi776)
    manager = torchreid.data.ImageDataManager(
        root=str(tiny_veri),
        sources=name,
        height=32,
        width=32,
        batch_size_train=8,
        batch_size_test=8,
        train_sampler="RandomIdentitySampler",
        num_instances=2,
        use_gpu=False,
        workers=0,
    )
    assert manager.num_train_pids == 4
    assert next(iter(manager.train_loader))["img"].shape == (8, 3, 32, 32)
    assert len(manager.test_loader[name]["query"].dataset) == 16


@pytest.mark.parametrize("folder", ["VeRi", "veri", "VeRi_with_plate"])
def test_the_folder_may_have_its_usual_names(tiny_veri, folder):
    (tiny_veri / "veri776").rename(tiny_veri / folder)
    assert VeRi776(root=str(tiny_veri), verbose=False).dataset_dir == str(tiny_veri / folder)


@pytest.mark.parametrize("name", ["veri776", "veri_format", "city"])
def test_the_root_may_be_the_folder_itself(tiny_veri, name):
    dataset = DATASETS[name](root=str(tiny_veri / "veri776"), verbose=False)
    assert len(dataset.train) == 32


def test_the_city_has_its_own_folder(tiny_veri):
    (tiny_veri / "veri776").rename(tiny_veri / "city")
    assert len(City(root=str(tiny_veri), verbose=False).gallery) == 32
    with pytest.raises(FileNotFoundError, match="request"):
        VeRi776(root=str(tiny_veri), verbose=False)


def test_no_city_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dfrst city"):
        City(root=str(tmp_path))


def test_a_wrong_root_says_what_it_holds(tiny_veri):
    with pytest.raises(FileNotFoundError, match=r"image_train.*holds veri776\."):
        VeRiFormat(root=str(tiny_veri))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        VeRi776(root=str(tiny_veri / "nowhere"))


def test_a_half_unpacked_archive_names_what_is_missing(tiny_veri):
    shutil.rmtree(tiny_veri / "veri776" / "image_query")
    with pytest.raises(FileNotFoundError, match="image_query"):
        VeRi776(root=str(tiny_veri))


def test_other_data_is_not_called_veri776(tiny_veri, caplog):
    VeRiFormat(root=str(tiny_veri / "veri776"), verbose=False)
    assert not caplog.records
    VeRi776(root=str(tiny_veri), verbose=False)
    assert "not results on VeRi-776" in caplog.text


def test_city_a_through_torchreid(city_a):
    dataset = VeRiFormat(root=str(city_a), verbose=False)
    assert (len(dataset.train), dataset.num_train_pids) == (2695, 120)
    assert dataset[0]["img"].mode == "RGB"


def test_a_broken_image_ends_instead_of_looping(tiny_veri):
    dataset = VeRi776(root=str(tiny_veri), verbose=False)
    path = Path(dataset.train[0][0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        dataset[0]
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=path.name):
        dataset[0]


def test_a_vehicle_that_list_and_labels_lack_is_trained_on(tiny_veri, caplog):
    """As the official files lack one vehicle of 32 images."""
    folder = tiny_veri / "veri776"
    for file in ("name_train.txt", "train_label.xml"):
        lines = (folder / file).read_text().splitlines()
        (folder / file).write_text("\n".join(line for line in lines if "0001_c" not in line))
    dataset = VeRiFormat(root=str(folder), verbose=False)
    assert len(dataset.train) == 32 and dataset.num_train_pids == 4
    assert "8 images are not in" in caplog.text
    names = [Path(path).name for path, *_ in dataset.train]
    assert sum(name not in read_labels(dataset.dataset_dir) for name in names) == 8


def test_an_image_that_left(tiny_veri):
    dataset = VeRi776(root=str(tiny_veri), verbose=False)
    shutil.rmtree(tiny_veri)
    with pytest.raises(ValueError, match="no such file"):
        dataset[0]


def test_one_camera_vehicles_and_lone_queries_are_reported(tiny_veri, caplog):
    folder = tiny_veri / "veri776"
    for split, vehicle in (("train", "0001"), ("test", "0002")):
        for path in (folder / f"image_{split}").glob(f"{vehicle}_*"):
            if "_c001_" not in path.name:
                path.unlink()
    VeRiFormat(root=str(folder), verbose=False)
    assert "1 of 4 training vehicles" in caplog.text
    # the query of the one camera left has no other camera to match; the three others still find that camera
    assert "1 of 16 queries" in caplog.text


def test_queries_that_no_gallery_image_matches(tiny_veri, caplog):
    folder = tiny_veri / "veri776"
    for path in (folder / "image_test").iterdir():
        path.rename(path.with_name(f"00{9 + int(path.name[3])}" + path.name[4:]))
    with pytest.raises(ValueError, match="16 query images stand in the gallery, byte for byte, under another camera"):
        VeRiFormat(root=str(folder), verbose=False)
    for path in (folder / "image_test").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    VeRiFormat(root=str(folder), verbose=False)
    assert "none of the 16 queries" in caplog.text and "nothing can be scored" in caplog.text
