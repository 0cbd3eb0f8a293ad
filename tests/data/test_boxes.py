"""Boxes of a table: read in their usual names, cropped wherever an image is read, refused where they mean nothing."""

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.data import Table
from torchreid_dfrst.data.boxes import boxed_names, split_name
from torchreid_dfrst.data.images import BadImageError, read_image
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.inference.import_features import import_features
from torchreid_dfrst.report.canvas import letterbox


@pytest.mark.parametrize(
    "header",
    [
        "x,y,w,h",
        "X,Y,Width,Height",
        "left,top,width,height",
        "bbox_x,bbox_y,bbox_w,bbox_h",
        "box_left,box_top,box_width,box_height",
        "bb_left,bb_top,bb_width,bb_height",
        "roi.x,roi.y,roi.w,roi.h",
        "BoundingBox_X,BoundingBox_Y,BoundingBox_W,BoundingBox_H",
    ],
)
def test_sizes(header):
    columns = dict(zip(header.split(","), [["20"], ["60.4"], ["90"], ["40"]], strict=True))
    assert boxed_names(columns, ["a.jpg"], "t") == ["a.jpg#xywh=20,60,90,40"]


@pytest.mark.parametrize(
    "header",
    [
        "left,top,right,bottom",
        "x1,y1,x2,y2",
        "xmin,ymin,xmax,ymax",
        "bbox_x1,bbox_y1,bbox_x2,bbox_y2",
        "x_1,y_1,x_2,y_2",
        "x0,y0,x1,y1",
        "tl_x,tl_y,br_x,br_y",
        "XMin,YMin,XMax,YMax",
        "l,t,r,b",
        "startX,startY,endX,endY",
        "det_x1,det_y1,det_x2,det_y2",
    ],
)
def test_corners(header):
    columns = dict(zip(header.split(","), [["20"], ["60"], ["110"], ["100"]], strict=True))
    assert boxed_names(columns, ["a.jpg"], "t") == ["a.jpg#xywh=20,60,90,40"]


@pytest.mark.parametrize("column", ["xywh", "bboxes", "bbox_xyxy", "tlwh", "polygon"])
def test_boxes_in_one_column_are_refused(column):
    with pytest.raises(ValueError, match=f"has boxes in one column, '{column}'"):
        boxed_names({"path": ["a"], column: ["1 2 3 4"]}, ["a"], "t")


def test_columns_that_are_no_boxes():
    assert boxed_names({"path": ["a"], "width": ["4"], "height": ["5"]}, ["a"], "t") == ["a"]
    assert split_name("a#xywh=1,2,3,4") == ("a", (1, 2, 3, 4)) and split_name("a#b.jpg") == ("a#b.jpg", None)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("x,y,w", "1,2,3", "a part of a box, the columns x, y, w: give x,y,w,h or left,top,right,bottom"),
        (
            "x,y,w,h,xmin,ymin,xmax,ymax",
            "1,2,3,4,1,2,3,4",
            "boxes in the columns x,y,w,h, and xmin,ymin,xmax,ymax besides",
        ),
        ("x,y,w,h,left", "1,2,3,4,5", "x,y,w,h, and left besides"),
        ("w,h", "3,4", "a part of a box, the columns w, h"),
        ("bbox_width,bbox_height", "3,4", "a part of a box, the columns bbox_width, bbox_height"),
        ("x_center,y_center,width,height", "3,4,5,6", "a part of a box, the columns x_center, y_center"),
        ("cx,cy,w,h", "3,4,5,6", "a part of a box, the columns cx, cy, w, h"),
        ("x,y,bbox_x,bbox_y,bbox_w,bbox_h", "1,2,3,4,5,6", "columns bbox_x,bbox_y,bbox_w,bbox_h, and x,y besides"),
        ("x,y,w,h", "0.3,0.3,0.4,0.4", "row 2: 0.3,0.3,0.4,0.4"),
        ("xmin,ymin,xmax,ymax", "0.3,0.3,0.7,0.7", "row 2: 0.3"),
        ("bbox", "1 2 3 4", "boxes in one column, 'bbox'"),
        ("x,y,w,h", "1,2,3,0", "1 row of .* no box of a pixel or more in x,y,w,h: row 2: 1,2,3,0"),
        ("x,y,w,h", "1,2,nan,4", "row 2: 1,2,nan,4"),
        ("x,y,w,h", "1,2,-3,4", "row 2: 1,2,-3,4"),
        ("x,y,w,h", "1,2,inf,4", "row 2: 1,2,inf,4"),
        ("x,y,w,h", "0.1,0.2,0.3,0.4", "row 2: 0.1,0.2,0.3,0.4"),
        ("x,y,w,h", ",,,", "row 2: no box"),
        ("x,y,w,h", "1,2,,4", "row 2: 1,2,,4"),
        ("left,top,right,bottom", "9,9,5,12", "row 2: 9,9,5,12"),
    ],
)
def test_boxes_that_mean_nothing(header, row, message):
    columns = dict(zip(header.split(","), [[word] for word in row.split(",")], strict=True))
    with pytest.raises(ValueError, match=message):
        boxed_names(columns, ["a.jpg"], "t.csv")


@pytest.fixture
def street(tmp_path):
    """Frames of two vehicles each, told apart by colour: red at the left, blue at the right."""
    (tmp_path / "images").mkdir()
    rows = ["path,identity,camera,split,x,y,w,h"]
    for k, split in enumerate(["train", "train", "query", "gallery", "gallery"]):
        frame = Image.new("RGB", (100, 50), (90, 90, 90 + k))
        frame.paste((255, 0, 0), (10, 10, 40, 30))
        frame.paste((0, 0, 255), (60, 10, 100, 30))
        frame.save(tmp_path / "images" / f"{k}.png")
        first = 0 if split == "train" else 2
        rows += [
            f"images/{k}.png,{first},{k},{split},10,10,30,20",
            f"images/{k}.png,{first + 1},{k},{split},60,10,44,20",
        ]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def colour(image):
    return np.asarray(image).reshape(-1, 3).mean(axis=0).round().tolist()


def test_every_reader_crops(street):
    data = Table(str(street), verbose=False)
    assert len(data.train) == 4 and len(data.gallery) == 4
    path = data.sightings["query"].path[1]
    assert path.endswith("2.png#xywh=60,10,44,20")
    assert read_image(path).size == (40, 20) and colour(read_image(path)) == [0, 0, 255]
    assert colour(data[0]["img"]) == [255, 0, 0]
    corner = np.asarray(letterbox(path, 40)[0])[20, 20].tolist()
    assert corner == [0, 0, 255]


def test_a_loader_counts_what_it_clips(street):
    data = DataManager(
        str(street),
        "table",
        "table",
        16,
        16,
        transforms=None,
        workers=0,
        batch_size_train=4,
        num_instances=2,
        use_gpu=False,
    )
    images = {
        path: image
        for batch in data.test_loader["table"]["query"]
        for path, image in zip(batch["impath"], batch["img"], strict=True)
    }
    red, blue = images.values()
    assert red[0].mean() > red[2].mean() and blue[2].mean() > blue[0].mean()
    assert [path.rpartition("/")[2] for path in data.clipped] == ["2.png#xywh=60,10,44,20"]
    report = check_dataset("table", street)
    (found,) = [f for f in report.findings if f.check == "boxes that stick out"]
    assert found.count == 5 and report.exit_code == 1


def test_a_box_outside_is_named_with_its_image(street):
    text = (street / "table.csv").read_text().replace("2.png,3,2,query,60,10,44,20", "2.png,3,2,query,90,10,44,20")
    (street / "table.csv").write_text(text)
    report = check_dataset("table", street)
    assert (
        report.exit_code == 2
        and "2.png#xywh=90,10,44,20 has most of its box outside of the image of 100 x 50" in str(report.findings)
    )
    with pytest.raises(BadImageError, match="correct the box"):
        read_image(street / "images" / "2.png#xywh=200,10,4,4")
    with pytest.raises(BadImageError, match=r"no such file"):
        read_image(street / "images" / "9.png#xywh=200,10,4,4")


def test_the_same_box_twice_is_refused(street):
    with open(street / "table.csv", "a") as file:
        file.write("images/0.png,0,0,train,10,10,30,20\n")
    with pytest.raises(ValueError, match=r"more than once.*0\.png#xywh=10,10,30,20"):
        Table(str(street), verbose=False)


def test_imported_rows_are_found_by_their_boxes(street):
    seen, split, names, _ = read_rows(street / "table.csv")
    order = np.random.default_rng(0).permutation(10)
    values = np.eye(10)
    np.savez(street / "e.npz", embedding=values[order], path=np.array(names)[order])
    found = import_features(street / "e.npz", street / "table.csv")
    np.testing.assert_array_equal(found.query.embedding, values[split == "query"])
    assert (found.query.sightings.path == seen.path[split == "query"]).all()
    np.savez(street / "e.npz", embedding=values[order], path=np.array([n.partition("#")[0] for n in names])[order])
    with pytest.raises(ValueError, match="with different embeddings"):
        import_features(street / "e.npz", street / "table.csv")


def test_one_box_a_frame_is_found_by_its_file(street):
    lines = (street / "table.csv").read_text().splitlines()
    (street / "table.csv").write_text("\n".join([lines[0], *lines[1::2]]))
    names = [f"images/{k}.png" for k in range(5)]
    np.savez(street / "e.npz", embedding=np.eye(5)[::-1], path=np.array(names[::-1]))
    np.testing.assert_array_equal(
        import_features(street / "e.npz", street / "table.csv").query.embedding, [np.eye(5)[2]]
    )
