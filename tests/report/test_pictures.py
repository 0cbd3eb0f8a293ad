import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from tools.studies.contamination.pictures import contact_sheet
from torchreid_dfrst.models.zoo import build
from torchreid_dfrst.report import canvas, spacetime
from torchreid_dfrst.report import ranked_lists as lists
from torchreid_dfrst.report.attention import attention_maps, reasons
from torchreid_dfrst.report.canvas import letterbox, spread
from torchreid_dfrst.report.ranked_lists import ranked_lists, time_gap
from torchreid_dfrst.sightings import Sightings


@pytest.fixture
def images(tmp_path):
    paths = [str(tmp_path / f"{k}.jpg") for k in range(4)]
    for k, path in enumerate(paths):
        Image.new("RGB", (60, 40), (60 * k, 0, 0)).save(path)
    return np.array(paths)


def has(picture, red, green, blue):
    """Whether the picture holds a run of pixels near that colour."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    return (abs(pixels - [red, green, blue]).max(axis=2) < 12).sum() > 100


def test_frames_are_green_for_the_same_vehicle_and_red_for_others(images, tmp_path):
    sightings = Sightings(np.array([0, 1, 2, 3]), np.arange(4.0), np.array([7, 7, 8, 8]), path=images)
    query, gallery = sightings[:1], sightings[1:]
    both = ranked_lists(tmp_path / "both.png", query, gallery, np.array([[0, 1]]))
    right = ranked_lists(tmp_path / "right.png", query, gallery, np.array([[0, -1]]))
    wrong = ranked_lists(tmp_path / "wrong.png", query, gallery, np.array([[1, 2]]))
    green, red = (bytes.fromhex(colour[1:]) for colour in (canvas.GREEN, canvas.RED))
    assert has(both, *green) and has(both, *red)
    assert has(right, *green) and not has(right, *red)
    assert has(wrong, *red) and not has(wrong, *green)


def test_ranked_lists_refuse_shapes_that_disagree(images, tmp_path):
    sightings = Sightings(np.zeros(4, int), path=images)
    with pytest.raises(ValueError, match="one row each"):
        ranked_lists(tmp_path / "x.png", sightings[:2], sightings, np.zeros((1, 2), int))


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, by file name, as well as the files."""
    found = {}

    def write(made, path, **options):
        found[path.name] = made
        return canvas.write(made, path, **options)

    for module in (lists, spacetime):
        monkeypatch.setattr(module, "write", write)
    return found


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_ranked_lists_name_cameras_and_vehicles_as_the_users_file_does(images, tmp_path, figures):
    gates, vans = ["north gate", "c003", "", "bridge"], ["blue van", "blue van", "7b", ""]
    sightings = Sightings([0, 0, 2, 3], np.arange(4.0), [7, 7, 8, 8], path=images, camera_name=gates, vehicle_name=vans)
    ranked_lists(tmp_path / "a.png", sightings[[0, 3]], sightings, np.array([[1, 2], [3, -1]]))
    labels = {"cam c003\n+1 s", "cam 2\n+2 s", "cam bridge\n+0 s", "rank 1", "rank 2"}
    labels |= {"query", "vehicle blue van\ncam north gate", "vehicle 8\ncam bridge"}
    assert labels <= {*words(figures["a.png"])}


def test_the_legend_of_ranked_lists_names_the_frames_there_are(images, tmp_path, figures):
    sightings = Sightings(np.arange(4), np.arange(4.0), np.array([7, 7, 8, -1]), path=images)
    ranked_lists(tmp_path / "all.png", sightings[:1], sightings, np.array([[1, 2, 3]]))
    ranked_lists(tmp_path / "right.png", sightings[:1], sightings, np.array([[1]]))
    legends = {name: [t.get_text() for t in made.legends[0].get_texts()] for name, made in figures.items()}
    assert legends["all.png"] == ["the query", "the same vehicle", "another vehicle", "not known"]
    assert legends["right.png"] == ["the query", "the same vehicle"]
    assert figures["all.png"].get_figwidth() <= 9, "legible on a page of 900 pixels"


def test_the_picture_of_camera_pairs_has_their_names(tmp_path, figures):
    pairs = [{"query": "north gate", "gallery": "c003", "queries": 3, "mAP": 60.0, "chance": 10.0}]
    spacetime.pair_gains({"cameras": ["c003", "north gate", "9"], "pairs": pairs}, tmp_path / "pairs.png")
    drawn = [word for word in words(figures["pairs.png"]) if word in ("c003", "north gate", "9")]
    assert list(dict.fromkeys(drawn)) == ["c003", "north gate", "9"] and len(drawn) >= 6, "on both axes"
    (image,) = figures["pairs.png"].axes[0].images
    assert image.get_array()[1, 0] == 50 and np.ma.count(image.get_array()) == 1, "row: query, column: gallery"


def test_the_line_of_appearance_alone_is_named_where_there_is_one(tmp_path, figures):
    score = {"mAP": 60.0}
    result = {key: {"0": score} for key in ("clock skew s", "wrong times", "cameras without training")}
    result |= {"as it is": score, "shuffled": dict.fromkeys(("times", "cameras", "both"), score)}
    for extra, names in (({}, ["provid"]), ({"appearance": {"mAP": 40.0}}, ["appearance alone", "provid"])):
        spacetime.controls({"provid": result | extra}, tmp_path / "controls.png")
        (legend,) = figures["controls.png"].legends
        assert sorted(text.get_text() for text in legend.get_texts()) == names


@pytest.mark.parametrize("seconds, text", [(np.nan, ""), (-12.4, "-12 s"), (150.0, "+2.5 min")])
def test_time_gaps_read_well(seconds, text):
    assert time_gap(seconds) == text


def test_heat_lies_where_the_map_is_high(images, tmp_path):
    maps = {"left": np.zeros((1, 8, 8)), "right": np.zeros((1, 8, 8))}
    maps["left"][:, :, :4] = 1
    maps["right"][:, :, 4:] = 5
    picture = attention_maps(tmp_path / "a.png", images[:1], maps, ["a"])
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    warm = pixels[..., 0] - pixels[..., 2] > 30
    columns = np.flatnonzero(warm.sum(axis=0) > 10)
    gaps = np.split(columns, np.flatnonzero(np.diff(columns) > 9) + 1)
    width = pixels.shape[1]
    assert len(gaps) == 2, "one warm half per map"
    assert gaps[0].mean() < 0.5 * width < 5 / 6 * width < gaps[1].mean()


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_a_map_covers_the_image_in_its_own_shape(tmp_path, size):
    Image.new("RGB", size, "black").save(tmp_path / "black.png")
    picture = attention_maps(tmp_path / "a.png", [tmp_path / "black.png"], {"m": np.ones((1, 6, 6))}, ["a"])
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    heat = (pixels[..., 0] - pixels[..., 2] > 40)[: -len(pixels) // 4]  # without the colour bar
    rows, columns = np.flatnonzero(heat.sum(axis=1) > 9), np.flatnonzero(heat.sum(axis=0) > 9)
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(size[0] / size[1], rel=0.05)
    assert heat[np.ix_(rows, columns)].mean() > 0.99


@pytest.mark.parametrize("count", [1, 8])
def test_nothing_touches_the_edges_of_the_picture(images, tmp_path, count):
    maps = {name: np.ones((count, 6, 6)) for name in ("coarse", "attention", "channel_0", "spatial_attention")}
    picture = attention_maps(tmp_path / "a.png", np.resize(images, count), maps, ["its match, rank 1\ncam 2"] * count)
    pixels = np.asarray(Image.open(picture).convert("L"))
    edges = [pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]]
    assert all((edge == 255).all() for edge in edges)
    assert (pixels[4:40] < 128).sum() > 100, "headings"


def test_a_map_of_other_images_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match=r"\(2, H, W\)"):
        attention_maps(tmp_path / "a.png", images[:2], {"m": np.zeros((3, 4, 4))}, ["a", "b"])


def test_the_contact_sheet_shows_every_kind_and_level(tmp_path):
    sheet = contact_sheet(tmp_path / "sheet.png", Image.new("RGB", (64, 48), (120, 130, 90)))
    assert has(sheet, 120, 130, 90)
    with Image.open(sheet) as picture:
        assert picture.width > picture.height > 300


def test_images_are_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    wide = Image.new("RGB", (80, 40), "red")
    wide.save(tmp_path / "wide.jpg", exif=exif)
    pixels = np.asarray(letterbox(tmp_path / "wide.jpg", 80)[0]).astype(int)
    assert (abs(pixels - [254, 0, 0]).max(axis=2) < 12).any(axis=0).sum() in range(38, 43)


@pytest.mark.parametrize("count, wanted, rows", [(10, 3, [0, 4, 9]), (2, 5, [0, 1]), (1, 1, [0]), (0, 4, [])])
def test_rows_are_spread_evenly(count, wanted, rows):
    assert spread(count, wanted).tolist() == rows


def test_reasons_are_of_pairs_and_leave_the_network_in_its_mode(images):
    model = build("dfrst_resnet18", 3, pretrained=False).train()
    maps = reasons(model, list(images), lambda image: pil_to_tensor(image.resize((64, 64))) / 255)
    assert list(maps) == [*model.groups, "spatial_attention"] and model.training
    assert {values.shape for values in maps.values()} == {(4, 4, 4)}
    totals = sum(maps[group].sum((1, 2)) for group in model.groups)
    np.testing.assert_allclose(totals[::2], totals[1::2], atol=1e-5)  # of either image of a pair: the similarity
    gem = build("dfrst_resnet18", 3, pretrained=False, pool="gem")
    assert (
        reasons(torch.nn.Identity(), list(images), pil_to_tensor) is None is reasons(gem, list(images), pil_to_tensor)
    )


def pil_to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
