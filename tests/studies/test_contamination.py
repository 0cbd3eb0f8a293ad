"""Damage of macroblocks: how much, where, of what kind, and always the same."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from tools.studies.contamination import __main__ as levels
from tools.studies.contamination import extract
from tools.studies.contamination.damage import BLOCK, KINDS, LEVELS, Contamination, one, parse
from torchreid_dfrst.cli import invoke
from torchreid_dfrst.retrieval import Extraction

SIZES = [(256, 192), (97, 61), (33, 200), (7, 5)]


def noise(size=(97, 61), seed=0):
    """An image without flat areas, away from black and white, so that all damage shows."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(90, 160, (size[1], size[0], 3), dtype=np.uint8))


def planes(image):
    return np.asarray(image.convert("YCbCr")).astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("percent", [*LEVELS, 100])
def test_the_share_of_changed_pixels_is_the_wanted_one_within_one_block(kind, size, percent):
    damage, image = Contamination(kind, percent), noise(size)
    mask = damage.mask(size, "a.jpg")
    assert mask.shape == (size[1], size[0])
    assert abs(mask.sum() - size[0] * size[1] * percent / 100) <= BLOCK**2 / 2
    changed = (np.asarray(damage(image, "a.jpg")) != np.asarray(image)).any(axis=2)
    assert not (changed & ~mask).any(), "sound pixels keep their bytes"
    if mask.sum() > 10 * BLOCK**2:
        assert changed.sum() > 0.95 * mask.sum(), "what counts as damaged has changed"


def test_whole_macroblocks_in_runs_and_not_salt_and_pepper():
    mask = Contamination("mixed", 20).mask((512, 512), "a.jpg")
    blocks = mask.reshape(32, BLOCK, 32, BLOCK).transpose(0, 2, 1, 3).reshape(32 * 32, -1)
    assert (blocks.all(axis=1) == blocks.any(axis=1)).all()
    hit = blocks[:, 0]
    followed = (hit[:-1] & hit[1:]).sum() / hit.sum()
    assert followed > 0.5, "scattered blocks would be followed by another one in a fifth of the cases"


def test_each_kind_damages_its_own_planes():
    image = noise((256, 256))
    for kind, touched in (("color-cast", [False, True]), ("brightness", [True, False])):
        damage = Contamination(kind, 50)
        where = damage.mask(image.size, "a.jpg")
        change = abs(planes(damage(image, "a.jpg")) - planes(image))[where]
        # RGB cannot hold every pair of luma and chroma, hence not exactly none
        assert [bool(np.median(change[:, 0]) > 20), bool(np.median(change[:, 1:].max(axis=1)) > 20)] == touched


def test_mosaic_is_averages_or_repetition():
    image = noise((256, 256))
    damage = Contamination("mosaic", 50)
    damaged, sound = planes(damage(image, "a.jpg")), planes(image)
    where = damage.mask(image.size, "a.jpg")
    averaged = repeated = 0
    for y in range(0, 256, BLOCK):
        for x in range(0, 256, BLOCK):
            if not where[y, x]:
                continue
            block, old = damaged[y : y + BLOCK, x : x + BLOCK], sound[y : y + BLOCK, x : x + BLOCK]
            flat = all(np.ptp(block[j : j + 8, i : i + 8, 0]) <= 1 for j in (0, 8) for i in (0, 8))
            if flat:
                averaged += 1
                assert abs(block[:8, :8, 0].mean() - old[:8, :8, 0].mean()) < 2
                assert abs(block[..., 1].mean() - old[..., 1].mean()) < 2 and np.ptp(block[..., 1]) <= 2
            else:
                copies = [
                    sound[v : v + BLOCK, u : u + BLOCK] for v in range(0, 256, BLOCK) for u in range(0, 256, BLOCK)
                ]
                assert min(abs(block - copy).max() for copy in copies) <= 3
                repeated += 1
    assert averaged > 10 and repeated > 10


def test_the_same_image_is_damaged_in_the_same_way_wherever_it_lies():
    image, damage = noise(), Contamination("mixed", 30)
    first = damage(image, "/data/one/image_test/a.jpg").tobytes()
    assert first == damage(image, "other/image_test/a.jpg").tobytes()
    assert first != damage(image, "other/image_test/b.jpg").tobytes()
    assert first != Contamination("mixed", 30, seed=1)(image, "image_test/a.jpg").tobytes()
    assert damage(image).tobytes() == damage(image.copy()).tobytes(), "without a name the pixels are the name"
    assert image.tobytes() == noise().tobytes(), "the input stays as it is"


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_level_adds_damage_to_that_of_a_lower_one(kind):
    image = noise((200, 150))
    pictures = [np.asarray(Contamination(kind, level)(image, "a.jpg")) for level in LEVELS]
    masks = [Contamination(kind, level).mask(image.size, "a.jpg") for level in LEVELS]
    for low, high, less, more in zip(pictures, pictures[1:], masks, masks[1:], strict=False):
        assert (more | ~less).all() and more.sum() > less.sum()
        assert (low[less] == high[less]).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_become_rgb(mode):
    assert Contamination("mixed", 0)(noise().convert(mode), "a").mode == "RGB"
    assert Contamination("mixed", 50)(noise().convert(mode), "a").size == (97, 61)


def test_words():
    assert parse("mosaic:5,12.5") == ("mosaic", [5.0, 12.5])
    assert parse("mixed") == ("mixed", [float(level) for level in LEVELS])
    assert one("brightness:20") == Contamination("brightness", 20.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mosaik:20", "did you mean 'mosaic'"),
        ("", "no contamination ''"),
        ("mosaic:a", "no percentages"),
        ("mosaic:101", "from 0 to 100"),
        ("mosaic:nan", "from 0 to 100"),
        ("mosaic", "7 levels"),
    ],
)
def test_words_that_are_none(text, message):
    with pytest.raises((KeyError, ValueError), match=message):
        one(text)


def test_results_level_by_level(tiny_run, tmp_path, monkeypatch, capsys):
    weights = ["--weights", tiny_run / "run" / "weights.safetensors", "--root", tiny_run / "data", "--workers", "0"]
    scoring = ["rerank.k1", "6", "rerank.k2", "3"]

    def call(study, *words):
        monkeypatch.setattr(sys, "argv", ["study", *map(str, words)])
        study.main()
        return capsys.readouterr().out

    words = [tiny_run / "features.npz", *weights, "--out", tmp_path, "--contaminate", "mixed:0,50", *scoring]
    printed = call(levels, *words)
    paths = [tmp_path / "contamination" / f"mixed-{level}.json" for level in (0, 50)]
    cards = [json.loads(path.read_text()) for path in paths]
    damage = {"kind": "mixed", "percent": 50.0, "seed": 0}
    assert [card["source"].get("contamination") for card in cards] == [None, damage]
    assert "| mixed 50 % | + ST + re-ranking |" in printed
    assert printed.strip() == (tmp_path / "contamination" / "table.md").read_text().strip()
    assert cards[0]["choices"]["rerank"]["k1"] == 6
    assert cards[0]["choices"] == cards[1]["choices"], "space and time are fitted on the same sound training images"
    assert invoke(["compare", *map(str, paths)]) == 1
    assert "contamination of the test images is None and" in capsys.readouterr().out

    call(extract, *weights, "--contaminate", "mixed:50", "-t", "veri776", "--out", tmp_path / "f.npz")
    damaged, sound = (Extraction.load(path) for path in (tmp_path / "f.npz", tiny_run / "features.npz"))
    assert (damaged.gallery.sightings.path == sound.gallery.sightings.path).all()
    assert (abs(damaged.gallery.embedding - sound.gallery.embedding).max(axis=1) > 0).all()
    invoke(["evaluate", str(tmp_path / "f.npz"), "--json", "--lists", "0", "--out", str(tmp_path), *scoring])
    scored = json.loads(capsys.readouterr().out)
    assert scored["rows"]["appearance"] == cards[1]["rows"]["appearance"]
