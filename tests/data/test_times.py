"""Times in the forms that people write: a column has one meaning, or it is refused with what could be meant."""

import datetime as dt

import numpy as np
import pytest

from torchreid_dfrst.data import Table
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.data.times import ACCEPTED, read_times
from torchreid_dfrst.data.veriwild import read_records
from torchreid_dfrst.data.veriwild import read_times as times_of_records

MOMENT = dt.datetime(2026, 5, 13, 16, 34, 45, tzinfo=dt.timezone.utc).timestamp()
FORMS = {
    "2026-05-13 16:34:45": 0, "2026/05/13 16:34:45": 0, "2026-05-13T16:34:45": 0, "2026-05-13_16-34-45": 0,
    "2026_05_13_163445": 0, "2026:05:13 16:34:45": 0, "2026-5-13 16:34:45": 0, "2026-05-13 16-34-45": 0,
    "20260513163445": 0, "20260513_163445": 0, "20260513-163445": 0, "20260513T163445": 0, "20260513T163445Z": 0,
    "20260513163445920": 0.92, "20260513163445.5": 0.5, "20260513163445920078": 0.920078, "202605131634": -45,
    "2026-05-13T16:34:45Z": 0, "2026-05-13T16:34:45.920Z": 0.92, "2026-05-13 16:34:45 UTC": 0,
    "2026-05-13T19:34:45+03:00": 0, "2026-05-13T19:34:45+0300": 0, "2026-05-13T11:04:45-05:30": 0,
    "2026-05-13 16:34:45.920078000": 0.920078, "2026-05-13 16:34:45,920": 0.92, "2026-05-13 16:34": -45,
    "2026-05-13T16:34Z": -45, "13.05.2026 16:34:45": 0, "13/05/2026 16:34:45": 0, "13-05-2026 16:34": -45,
    "05/13/2026 04:34:45 PM": 0, "13/05/2026 4:34:45 p.m.": 0, "5/13/2026 4:34 PM": -45,
    "05/13/2026,\u00a004:34:45\u202fPM": 0, "\u0661\u0667\u0667\u0668\u0666\u0669\u0660\u0660\u0668\u0665": 0,
    "1778690085": 0, "1778690085.5": 0.5, "1778690085000": 0, "1778690085920": 0.92, "1778690085000000": 0,
    "1778690085920078000": 0.920078,
}  # fmt: skip


@pytest.mark.parametrize("word", FORMS)
def test_a_form_that_is_read(word):
    (seconds,), unread = read_times([word], "table.csv")
    assert unread == [] and seconds == MOMENT + FORMS[word]


@pytest.mark.parametrize("word", [
    "1_000", "2026-05-13", "16:34:45", "noon", "inf", "20261313163445", "20260230163445", "20260513167445",
    "2026-02-30 10:00:00", "30.02.2026 10:00", "0001-01-01 00:00:00", "2026-05-13 16:34:45 CEST", "13.05.26 16:34",
    "2026-05-13 13:34 PM", "12345678901234", "99999999999", "16 o'clock", "2026-05-13T24:00:00", "9" * 5000,
])  # fmt: skip
def test_a_word_that_is_no_time_is_named(word):
    assert read_times(["", word], "table.csv")[1] == [1]


def test_seconds_and_missing_words():
    seconds, unread = read_times(["70.5", "", "NaN", "null", "N/A", "-3", "1e3", "None"], "table.csv")
    assert unread == [] and np.array_equal(seconds, [70.5, np.nan, np.nan, np.nan, np.nan, -3, 1000, np.nan], True)
    assert read_times(["12,5", "3"], "t")[0].tolist() == [12.5, 3]


def test_minus_one_is_no_time_unless_others_are_below_0(caplog):
    words = ["70.5", "-1", "unknown", "-1.0", "?", "-999"]
    seconds, unread = read_times(words, "t.csv")
    assert unread == [] and np.isnan(seconds).tolist() == [False, True, True, True, True, True]
    assert "3 times of t.csv are -1 or the like: not known: row 1, row 3, row 5" in caplog.text
    assert read_times(["70.5", "-1", "-3"], "t.csv")[0].tolist() == [70.5, -1, -3]
    assert read_times(["46143.5", "46200.25", "47000.125"], "t.csv")[1] == []


@pytest.mark.parametrize(("words", "message"), [
    (["10", "2026-05-13 16:34:45"], r"row 0 \('10'\) is seconds and row 1 .* is a date .*h: seconds, .*south: a date"),
    (["2026-05-13 16:34:45", "20"], "row 0 .* is a date and row 1 .* is seconds"),
    (["1778690085", "1778690085000"], "seconds since 1970 and row 1 .* milliseconds since 1970"),
    (["1778690085", "0"], r"row 1 \('0'\) is seconds"),
    (["20260513163445", "1778690085"], "is a date and row 1 .* seconds since 1970"),
    (["2026-05-13T16:34:45Z", "2026-05-13T16:34:45"], "with a time zone and row 1 .* without a time zone"),
    (["31/05/2026 16:34", "05/31/2026 16:34"], "both orders: row 0 .* and row 1"),
    (["01/02/2026 16:34", "03/04/2026 16:34"], "day or month first: .*time_format"),
    (["01/02/2026 4:34 PM"], "day or month first"),
    (["20260513", "20260514"], "may be a date without a time of day"),
    (["2026051316", "2026051317"], "may be a date with its hour"),
    (["2026133163445", "2026133163446"], r"row 0 .* may be a date with the day of the year, .*%Y%j%H%M%S"),
    (["2026133163445.92", "2026133163446.5"], "may be a date with the day of the year"),
    (["2026133163445", "2026133163446", "2026133169999"], "may be a date with the day of the year"),
    (["20260501", "20260502", "20260599"], "may be a date without a time of day"),
    (["2026133163445920"], "may be a date with the day of the year"),
    (["2026133163445920078"], "may be a date with the day of the year"),
    (["2026051316344592"], "may be a date with hundredths"),
    (["1,250", "2,500"], "decimal comma or a thousands mark"),
    (["1970-01-01 00:00:00", "2026-05-13 16:34:45"], r"row 0 .* is a date before 1990 and row 1 .* is a date "),
    (["46143.676585", "46143.6771"], r"row 0 \('46143.676585'\) may be days, as spreadsheets count them"),
    (["740103.67658", "740104.12345"], "may be days"),
    (["1.77869E+12", "1.77870E+12"], "rounded to 6 digits"),
])  # fmt: skip
def test_a_column_of_two_meanings_is_refused(words, message):
    with pytest.raises(ValueError, match=message) as error:
        read_times(words, "table.csv", cameras=["north", "south"])
    assert len(str(error.value)) < 500


def test_milliseconds_that_may_be_days_of_a_year_by_chance_are_read():
    """1990133163445 is a moment of 2033; a second row that is no date decides."""
    assert read_times(["1990133163445", "1990400163445"], "t")[0].tolist() == [1990133163.445, 1990400163.445]


def test_a_day_beyond_the_twelfth_decides_for_the_column():
    first = read_times(["01/02/2026 10:00", "13/02/2026 10:00"], "t")[0]
    second = read_times(["02/01/2026 10:00", "02/13/2026 10:00"], "t")[0]
    assert first.tolist() == second.tolist() and first[1] - first[0] == 12 * 86400


def test_cameras_that_write_in_different_ways_are_told_of(caplog):
    words = ["2026-05-13 16:34:45", "13.05.2026 16:34:45", "2026-05-13 16:34:46"]
    seconds, _ = read_times(words, "table.csv", cameras=["north", "south", "north"])
    assert seconds.tolist() == [MOMENT, MOMENT, MOMENT + 1]
    assert "cameras of table.csv write times in different ways" in caplog.text and "camera south: D.M.Y" in caplog.text


def test_a_format_keeps_the_zone_and_is_checked():
    seconds, _ = read_times(["2026-05-13T19:34:45+0300", "2026-05-13T16:34:45+0000"], "t", "%Y-%m-%dT%H:%M:%S%z")
    assert seconds.tolist() == [MOMENT, MOMENT]
    assert read_times(["01/02/2026 10:00", "x"], "t", "%d/%m/%Y %H:%M")[1] == [1]
    assert read_times(["10:00:00.5"], "t", "%H:%M:%S.%f")[1] == []
    for wrong in ("%Q", "%", "%Y%Y", "%Y-%m-%d %I:%M"):
        with pytest.raises(ValueError, match="time_format is"):
            read_times(["2026"], "t", wrong)


ROWS = ["a.jpg,1,north,{},train", "b.jpg,1,south,{},train", "c.jpg,2,north,{},query", "d.jpg,2,south,{},gallery"]


def write(folder, *times):
    rows = [row.format(time) for row, time in zip(ROWS, times, strict=True)]
    (folder / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    return folder / "table.csv"


def test_a_table_takes_a_format_and_lists_what_it_accepts(tmp_path):
    path = write(tmp_path, *(f"0{k}/02/2026 10:00" for k in (1, 2, 3, 4)))
    with pytest.raises(ValueError, match="time_format"):
        Table(str(tmp_path), verbose=False)
    made = Table(str(tmp_path), time_format="%d/%m/%Y %H:%M", verbose=False)
    assert np.diff(made.sightings["train"].time_s).tolist() == [86400]
    write(tmp_path, "1", "noon", "2", "3")
    with pytest.raises(ValueError, match=r"row 3: 'noon'") as error:
        read_rows(path)
    assert ACCEPTED in str(error.value)


def test_parquet_times(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    __import__("pyarrow.parquet")
    moment = dt.datetime(2026, 5, 13, 16, 34, 45, 920078, tzinfo=dt.timezone.utc)
    kinds = [pyarrow.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")]
    for kind in [*kinds, pyarrow.duration("ms")]:
        count = 1778690085920078000 // {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
        time = pyarrow.array([count, None, count, count], pyarrow.int64()).cast(kind)
        columns = {"path": list("abcd"), "identity": [1, 1, 2, 2], "camera": [1, 2, 1, 2]}
        table = pyarrow.table({**columns, "split": ["train", "train", "query", "gallery"], "time": time})
        pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
        seconds = read_rows(tmp_path / "table.parquet")[0].time_s
        assert abs(seconds[0] - moment.timestamp()) < {"s": 1, "ms": 1e-3}.get(kind.unit, 1e-6)
        assert np.isnan(seconds[1])


def test_veriwild_reads_counts_since_1970_and_zones(tmp_path):
    path = tmp_path / "vehicle_info.txt"
    for time in ("1778690085", "2026-05-13T19:34:45+03:00", "20260513163445"):
        path.write_text(f"00001/000001;3;{time};a;b;c\n")
        assert times_of_records(read_records(path), path) == {"00001/000001": MOMENT}
    path.write_text("00001/000001;3;1778690085;a;b;c\n00001/000002;4;2026-05-13 16:34:45;a;b;c\n")
    with pytest.raises(ValueError, match=r"00001/000001 .* is seconds since 1970 and 00001/000002 .* is a date"):
        times_of_records(read_records(path), path)
