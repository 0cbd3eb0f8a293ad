"""Everything that is wrong with a data set is said at once, by its loader and by the doctor."""

import re

import pytest
from PIL import Image

from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.problems import Problems, single_errors
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.messages import error_text, numbered


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 images are lost"), (1, "1 image is lost"), (1200, "1,200 images are lost")]
)
def test_nouns_and_verbs_fit_their_number(count, said):
    assert numbered("{count} [image is|images are] lost", count) == said


def throw(error):
    raise error


def test_a_single_problem_stays_what_it_is_and_several_are_listed():
    def raised(*errors):
        problems = Problems()
        for error in errors:
            assert problems.attempt(throw, error) is None
        with pytest.raises((ValueError, KeyError, OSError)) as caught:
            problems.raise_all()
        return caught.value

    Problems().raise_all()
    one, key, lost = ValueError("one"), KeyError("two"), FileNotFoundError("three")
    assert raised(one) is one
    assert str(raised(one, key)) == "2 problems: (1) one; (2) two"
    assert single_errors(raised(raised(one, key), lost)) == [one, key, lost], (
        "problems of a part are problems of the whole"
    )
    assert isinstance(raised(lost, lost), FileNotFoundError) and not isinstance(raised(lost, one), FileNotFoundError)
    assert Problems().attempt(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        Problems().attempt(throw, ZeroDivisionError())


def spoil_veri(root):
    folder = root / "veri776"
    Image.new("RGB", (4, 4)).save(folder / "image_train" / "x.jpg")
    next((folder / "image_test").iterdir()).write_bytes(b"torn")
    for path in (folder / "image_query").iterdir():
        path.unlink()
    (folder / "camera_Dist.txt").write_text("0 1\n2")
    with open(folder / "test_track.txt", "a") as file:
        file.write("0002_c001_t0009 0004_c001_00000000_0.jpg\n")
    (folder / "train_label.xml").write_text("<a>")
    return root


VERI = {
    "loading": [
        "1 of 33 names .* are not of the form .*: x.jpg",
        "image_query holds no image",
        "camera_Dist.txt has 2 rows",
        "track .* of .*test_track.txt",
    ],
    "labels": ["train_label.xml"],
    "unreadable images": ["1 of 65 images cannot be read"],
}


def test_the_doctor_lists_all_that_keeps_veri_from_loading(tiny_veri):
    report = check_dataset("veri_format", spoil_veri(tiny_veri) / "veri776")
    assert report.exit_code == 2 and not report.counts
    found = {check: [f.message for f in report.findings if f.check == check] for check in VERI}
    for check, messages in VERI.items():
        assert len(found[check]) == len(messages)
        for message, expected in zip(found[check], messages, strict=True):
            assert re.search(expected, message), (expected, message)
            assert message in report.text()


def test_training_on_it_is_told_the_same(tiny_veri):
    with pytest.raises(ValueError, match=r"4 problems: \(1\) .*x\.jpg.*; \(2\) .*; \(3\) .*; \(4\) .*test_track"):
        DATASETS["veri_format"](str(spoil_veri(tiny_veri) / "veri776"))


def test_a_table_with_many_mistakes(tmp_path):
    rows = ["a.jpg,1,n,5,train", "b.jpg,1,s,noon,train", "b.jpg,1,s,7,train", "c.jpg,2,n,9,test", "d.jpg,2,,9,gallery"]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    (tmp_path / "distances.csv").write_text("n,s\n0,x\nx,0\n")
    report = check_dataset("table", tmp_path)
    messages = [found.message for found in report.findings]
    assert report.exit_code == 2 and len(messages) == 5
    for word in ("'test'", "no camera", "b.jpg", "'noon'", "'x'"):
        assert sum(word in message for message in messages) == 1, word


def test_all_missing_columns_of_a_table_are_named(tmp_path):
    (tmp_path / "table.csv").write_text("path,identity,cam,time\na.jpg,1,2,3\n")
    with pytest.raises(ValueError, match=r"no column 'camera' \(did you mean 'cam'\?\) and none 'split'"):
        DATASETS["table"](str(tmp_path))


def spoil(root, *files):
    for file in files:
        next(root.glob(f"*/**/{file}")).write_text("nonsense\n")
    return root


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("vehicleid", ["train_list.txt", "test_list_800.txt"]),
        ("veriwild", ["vehicle_info.txt", "train_list.txt", "test_3000_query.txt"]),
    ],
)
def test_every_broken_list_is_named(request, name, files):
    root = spoil(request.getfixturevalue(name), *files)
    messages = [found.message for found in check_dataset(name, root).findings]
    assert len(messages) == len(files)
    for file, message in zip(files, messages, strict=True):
        assert file in message


def test_every_broken_file_of_cityflow_is_named(cityflow):
    folder = cityflow / "AIC20_track2_reid"
    (folder / "test_label.xml").write_text((folder / "train_label.xml").read_text())
    (folder / "train_label.xml").write_text("<a>")
    for part in ("query", "test"):
        (folder / f"name_{part}.txt").write_text("000099.jpg\n")
    with pytest.raises(ValueError, match=r"3 problems: .*train_label.*name_query.*name_test"):
        DATASETS["cityflow"](str(cityflow))


def test_the_command_shows_three_of_each_or_all(tiny_veri, capsys):
    from torchreid_dfrst.cli import main

    for path in sorted((tiny_veri / "veri776" / "image_train").iterdir())[:5]:
        path.write_bytes(b"torn")
    for words_, shown in (([], 3), (["--all"], 5), (["--all", "--json"], 5), (["--json"], 3)):
        with pytest.raises(SystemExit) as ended:
            main(["check", "-t", "veri_format", "--root", f"{tiny_veri}/veri776", *words_])
        out = capsys.readouterr().out
        assert ended.value.code == 2 and out.count("content is not a known image format") == shown


def test_words_of_errors():
    assert error_text(KeyError("it's")) == "it's" and error_text(OSError("gone")) == "gone"
