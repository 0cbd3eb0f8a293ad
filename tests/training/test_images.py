"""Every kind of image file becomes upright RGB, or one line that names it."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from networks import TinyNet
from PIL import Image, ImageOps, features
from processes import together
from runs import manager
from torch.utils.data import get_worker_info

from torchreid_dfrst.data.images import BadImageError, Images, read_image
from torchreid_dfrst.training import run


def picture(size=(8, 6)):
    values = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    values[: size[1] // 2] = (255, 250, 250)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("mode", "form"),
    [*((mode, "png") for mode in ("L", "P", "RGB", "RGBA", "1", "LA")), ("CMYK", "tif"), ("CMYK", "jpg")],
)
def test_modes_become_rgb(mode, form, tmp_path):
    path = tmp_path / f"image.{form}"
    picture().convert(mode).save(path)
    found = read_image(path)
    assert (found.mode, found.size) == ("RGB", (8, 6))
    top, bottom = np.asarray(found)[0, 0].astype(int), np.asarray(found)[-1, 0].astype(int)
    assert top.sum() > bottom.sum() + 100


def test_sixteen_bits_keep_their_grey_levels(tmp_path):
    grey = np.linspace(0, 65535, 48).reshape(6, 8)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "deep.png")
    found = np.asarray(read_image(tmp_path / "deep.png"))[..., 0].astype(float)
    np.testing.assert_allclose(found, grey / 257, atol=1)


def test_transparent_pixels_are_black_and_rotation_is_undone(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    clear.save(tmp_path / "clear.png")
    assert not np.asarray(read_image(tmp_path / "clear.png")).any()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    picture().save(tmp_path / "turned.jpg", exif=exif)
    turned = read_image(tmp_path / "turned.jpg")
    assert turned.size == (6, 8)
    assert np.asarray(turned)[4, 5, 0] > 150 > np.asarray(turned)[4, 0, 0], "the bright half is on the right now"


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_undone_as_pillow_does(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as written:
        expected = ImageOps.exif_transpose(written)
    assert (expected.size == (5, 7)) == (orientation in (5, 6, 7, 8))
    assert (np.asarray(read_image(tmp_path / "turned.png")) == np.asarray(expected)).all()


def with_exif(path, old, new):
    """A picture lying on its side whose EXIF has ``old`` replaced."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2020"
    picture().save(path, exif=exif)
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))


def test_damage_beside_the_orientation_does_no_harm(tmp_path):
    # the maker's text is said to be the width
    with_exif(tmp_path / "turned.jpg", b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")
    assert read_image(tmp_path / "turned.jpg").size == (6, 8)


def spoil(path, how):
    whole = path.read_bytes()
    {
        "truncated": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_bytes(b"this is not an image"),
        "missing": path.unlink,
        "huge": lambda: Image.new("1", (10_000, 8_000)).save(path, format="PNG"),
        "absurd": lambda: Image.new("1", (20_000, 20_000)).save(path, format="PNG"),
        "floating": lambda: Image.new("F", (8, 8), 0.5).save(path, format="TIFF"),
        "long": lambda: Image.new("I", (8, 8), 70_000).save(path, format="TIFF"),
        "below zero": lambda: Image.new("I", (8, 8), -1).save(path, format="TIFF"),
        "folder": lambda: (path.unlink(), path.mkdir()),
        "pipe": lambda: (path.unlink(), os.mkfifo(path)),
        "device": lambda: (path.unlink(), path.symlink_to("/dev/zero")),
        "loop": lambda: (path.unlink(), path.symlink_to(path)),
        "nowhere": lambda: (path.unlink(), path.symlink_to(path.with_name("none"))),
        "program": lambda: path.write_bytes(POSTSCRIPT),
    }[how]()
    return path


REASONS = {
    "truncated": "(?i)truncated",
    "empty": "the file is empty",
    "text": "not a known image format",
    "missing": "no such file",
    "huge": "10000 x 8000 pixels",
    "absurd": "more than 64,000,000 pixels",
    "floating": "floating-point pixels",
    "long": "32-bit pixels, whose range nobody knows",
    "below zero": "32-bit pixels, whose range nobody knows",
    "folder": "it is a folder",
    "pipe": r"it is a pipe \(FIFO\)",
    "device": "it is a device",
    "loop": "it is a link that leads back to itself",
    "nowhere": "it is a link to nothing",
    "program": "not a known image format: JPEG, PNG, ",
}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.mark.parametrize("how", REASONS)
def test_a_bad_file_is_named_with_its_reason(how, tmp_path):
    picture((64, 64)).save(tmp_path / "image.jpg")
    path = spoil(tmp_path / "image.jpg", how)
    with pytest.raises(BadImageError, match=REASONS[how]) as error:
        read_image(path)
    assert str(path) in str(error.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_file_is_a_bad_image(tmp_path):
    path = tmp_path / "image.avif"
    picture((64, 64)).save(path)
    whole = path.read_bytes()
    start = whole.index(b"mdat") + 4
    path.write_bytes(whole[:start] + bytes(len(whole) - start))
    with pytest.raises(BadImageError, match="cannot be read as an image"):
        read_image(path)


def test_errors_of_decoders_are_bad_images_but_memory_is_not(tmp_path, monkeypatch):
    picture().save(tmp_path / "image.png")
    for error in (RuntimeError("Failed to decode frame 0"), MemoryError()):
        monkeypatch.setattr(Image.Image, "load", Mock(side_effect=error))
        with pytest.raises(BadImageError if isinstance(error, RuntimeError) else MemoryError):
            read_image(tmp_path / "image.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_training_stops_at_a_bad_file_in_one_line(workers, tiny_veri):
    data = manager(tiny_veri, workers=workers)
    bad = spoil(sorted((tiny_veri / "veri776" / "image_train").iterdir())[3], "truncated")
    with pytest.raises(BadImageError, match=r"data\.on_bad_image skip .* --on-bad-image skip") as error:
        for _ in range(4):
            list(data.train_loader)
    assert str(bad) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipping_keeps_p_identities_with_k_images(workers, tiny_veri):
    data = manager(tiny_veri, workers=workers, on_bad_image="skip")
    files = sorted((tiny_veri / "veri776" / "image_train").iterdir())
    bad = {str(spoil(files[k], how)) for k, how in ((3, "truncated"), (4, "empty"), (12, "text"))}
    for epoch in range(3):
        data.sampler.seek(epoch)
        batches = list(data.train_loader)
        assert len(batches) == 4
        for batch in batches:
            assert (batch["pid"].view(4, 2) == batch["pid"].view(4, 2)[:, :1]).all()
            assert len(batch["pid"].unique()) == 4
            assert not bad & set(batch["impath"])
            for path, identity in zip(batch["impath"], batch["pid"], strict=True):
                assert data.identities[identity][:4] in path.rsplit("/", 1)[1][:4]
    assert set(data.skipped) == bad


def test_what_replaces_a_bad_image_is_not_in_the_batch_already_for_any_number_of_processes(tiny_veri):
    options = {"on_bad_image": "skip", "num_instances": 4}
    whole, *parts = [manager(tiny_veri, **options)] + [
        manager(tiny_veri, **options, rank=rank, world_size=4) for rank in range(4)
    ]
    files = sorted((tiny_veri / "veri776" / "image_train").iterdir())
    for k in (3, 4, 12):  # two of the 8 images of an identity, one of another
        spoil(files[k], "empty")
    replaced = 0
    for epoch in range(8):
        for data in (whole, *parts):
            data.sampler.seek(epoch)
        for batch, *shares in zip(whole.train_loader, *(part.train_loader for part in parts), strict=True):
            assert len(set(batch["impath"])) == 8
            assert batch["impath"] == [path for share in shares for path in share["impath"]]
            replaced += sum(map(bool, batch["bad"]))
    assert replaced >= 8


def test_what_replaces_a_bad_image_comes_with_its_own_camera_and_data_set(tmp_path):
    picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    items = [(str(tmp_path / "bad.png"), 7, 0, 0), (str(tmp_path / "good.png"), 7, 3, 1)]
    found = Images(items, transform=np.asarray, substitute=True)[0]
    assert (found["impath"], found["camid"], found["dsetid"]) == (items[1][0], 3, 1)
    assert (found["pid"], found["number"], found["bad"]) == (7, 0, items[0][0])


def test_with_too_few_readable_images_one_is_repeated(tiny_veri):
    data = manager(tiny_veri, on_bad_image="skip", num_instances=4)
    for path in sorted((tiny_veri / "veri776" / "image_train").glob("0003_*"))[3:]:
        spoil(path, "empty")
    for batch in data.train_loader:
        mine = [path for path in batch["impath"] if "/0003_" in path]
        assert not mine or (len(mine) == 4 and len(set(mine)) == 3)


def skip_in_training(root, folder):
    # what is tested is what is listed, not the network
    run.build_model = lambda classes, **_: TinyNet(classes)
    sets = {"root": str(root), "sources": "veri776", "height": 32, "width": 32, "batch_size_train": 8}
    run.train(
        {
            "model": {"name": "tiny"},
            "data": {**sets, "num_instances": 2, "workers": 0, "on_bad_image": "skip"},
            "loss": {},
            "optim": {},
            "scheduler": {},
            "train": {"save_dir": str(folder), "max_epoch": 1, "pictures": False},
        }
    )


def test_what_any_process_skipped_is_listed(tiny_veri, tmp_path):
    files = sorted((tiny_veri / "veri776" / "image_test").iterdir())
    bad = [str(spoil(files[k], "empty")) for k in (4, 5)]  # each is embedded by another process
    together(skip_in_training, 2, tiny_veri, tmp_path / "run", folder=tmp_path)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["skipped_images"] == bad
    said = (tmp_path / "process-0.log").read_text()
    assert all(f"skipped, could not be read: {path}" in said for path in bad) and "2 image files were skipped" in said


def test_skipped_test_images_are_left_out_and_listed(tiny_veri):
    bad = str(spoil(sorted((tiny_veri / "veri776" / "image_test").iterdir())[5], "empty"))
    data = manager(tiny_veri, on_bad_image="skip")
    paths = [path for batch in data.test_loader["veri776"]["gallery"] for path in batch["impath"]]
    assert len(paths) == 31 and bad not in paths
    assert data.skipped == [bad]


def test_skipped_validation_images_are_listed_too(tiny_veri):
    data = manager(tiny_veri, on_bad_image="skip", validation_identities=2, batch_size_train=4)
    path = data.validation["gallery"].dataset.items[3][0]
    spoil(Path(path), "empty")
    assert path not in [path for batch in data.validation["gallery"] for path in batch["impath"]]
    assert data.skipped == [path]


def test_an_identity_without_a_readable_image_is_an_error(tiny_veri):
    data = manager(tiny_veri, on_bad_image="skip")
    for path in (tiny_veri / "veri776" / "image_train").glob("0003_*"):
        spoil(path, "empty")
    with pytest.raises(BadImageError, match="has no readable image") as error:
        list(data.train_loader)
    assert "skip" not in str(error.value), "that is what was asked for already"


def test_augmentation_depends_on_the_seed_alone(tiny_veri):
    images: Images = manager(tiny_veri).train_loader.dataset
    cached: Images = manager(tiny_veri, cache=True).train_loader.dataset
    first, again, other = images[0, 7]["img"], images[0, 7]["img"], images[0, 8]["img"]
    assert (first == again).all() and (first != other).any()
    for _ in range(2):
        assert (cached[0, 7]["img"] == first).all()
    assert get_worker_info() is None


def test_the_batches_do_not_depend_on_the_number_of_workers(tiny_veri):
    found = []
    for workers in (0, 2):
        data = manager(tiny_veri, workers=workers)
        data.sampler.seek(1, 1)
        found.append(list(data.train_loader))
    assert len(found[0]) == 3
    for one, two in zip(*found, strict=True):
        assert one["impath"] == two["impath"] and (one["img"] == two["img"]).all()


@pytest.mark.parametrize("count", [1, 4])
def test_holding_out_too_many_identities_is_an_error(count, tiny_veri):
    with pytest.raises(ValueError, match="hold out 2 or more of the 4 identities"):
        manager(tiny_veri, validation_identities=count)


def test_held_out_identities_are_not_trained_on(tiny_veri):
    data = manager(tiny_veri, validation_identities=2, batch_size_train=4)
    trained = {path for path, *_ in data.train_loader.dataset.items}
    held = {path for path, *_ in data.validation["gallery"].dataset.items}
    queries = [item for item in data.validation["query"].dataset.items]
    assert len(trained) == len(held) == 16 and not trained & held
    assert len(queries) == len({(pid, camera) for _, pid, camera, _ in queries}) == 8
    assert sorted({pid for _, pid, *_ in data.train_loader.dataset.items}) == [0, 1]
