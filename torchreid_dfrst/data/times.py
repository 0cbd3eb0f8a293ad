"""Times as people write them: a column has one meaning, and all of its words decide it together."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torchreid_dfrst.data.numbers import GROUPED
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.messages import sample
from torchreid_dfrst.names import says_unknown, tidy

ACCEPTED = (
    "seconds since any start (70.5), seconds, ms, us or ns since 1970, or dates with a time of day: 2026-05-01 16:34, "
    "2026-05-01T16:34:45.92Z, ...+03:00, 20260501_163445, 20260501163445920, 01.05.2026 16:34:45, 13/05/2026 4:34 PM"
)
UNITS = {"seconds since 1970": 1, "milliseconds since 1970": 10**3, "microseconds since 1970": 10**6,
         "nanoseconds since 1970": 10**9}  # fmt: skip
OLDEST = 630_720_000  # 1990: fewer seconds count from another start
OLDEST_YEAR = 1990  # programs write 1970 or 1900 where they know nothing
DAYS = ((36_526, 73_050), (730_486, 767_010), (2_451_545, 2_488_070))
"""Of 2000 to 2100 as spreadsheets, MATLAB and astronomers count them."""
EARLIEST, LATEST = 946_684_800, 4_200_000_000  # 2000 to 2103
YEARS = range(1900, 2200)
STAMPS = (12, 14, 15, 17, 18, 20)  # digits of YYYYMMDDHHMM[SS[fraction]] that are no plausible count since 1970
DOUBTFUL = {
    "%Y%m%d": ((8,), "a date without a time of day"),
    "%Y%m%d%H": ((10,), "a date with its hour"),
    "%Y%m%d%H%M%S%f": ((16,), "a date with hundredths of a second"),
    "%Y%j%H%M%S": ((13,), "a date with the day of the year"),
    "%Y%j%H%M%S%f": ((16, 19), "a date with the day of the year"),
}
"""Forms of ``strptime`` to how many digits they have that may be a count as well, and what they are."""
LOOKED_AT = 1000
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)
DATE = re.compile(
    r"(?:(?P<y>\d{4})(?P<s>[-/._:])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})|(?P<cy>\d{4})(?P<cm>\d\d)(?P<cd>\d\d)"
    r"|(?P<a>\d{1,2})(?P<t>[-/._])(?P<b>\d{1,2})(?P=t)(?P<z>\d{4}))"
    r"(?:[Tt_-]|,? +|(?<=\d{8})(?=\d))"
    r"(?:(?P<H>\d{1,2})(?P<c>[:._-])(?P<M>\d\d)(?:(?P=c)(?P<S>\d\d)(?:[.,:](?P<f>\d{1,9}))?)?"
    r"|(?P<cH>\d\d)(?P<cM>\d\d)(?:(?P<cS>\d\d)(?:[.,]?(?P<cf>\d{1,9}))?)?)"
    r"(?: *(?P<half>[AaPp])\.?[Mm]\.?)?"
    r" *(?P<zone>[Zz]|(?:UTC|GMT)?(?:[+-]\d\d(?::?\d\d)?)|UTC|GMT)?",
    re.ASCII,
)
logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """A date with a time of day as its parts; ``order`` is the mark between a day and a month that may be swapped."""

    year: int
    month: int
    day: int
    second: int  # of the day
    fraction: str  # digits of a second
    zone: str
    order: str
    form: str


def read_times(
    words: Sequence[str],
    where: object,
    time_format: str | None = None,
    row: Callable[[int], str] = "row {}".format,
    cameras: Sequence[str] | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Seconds of a column of times; dates without a zone are read as UTC.

    Args:
        words: as written, without blanks around them.
        where: the file, for messages, and ``row`` the name of a place in the column.
        time_format: as ``datetime.strptime`` takes it, for dates; None takes what ``ACCEPTED`` lists.
        row: see ``where``.
        cameras: of each word, to say so where cameras write their times in different ways.

    Returns:
        ``(N,)`` seconds, NaN where there is no time, and the places of words that are no times.

    Raises:
        ValueError: the words have different meanings (seconds and dates, two units, zones and none), or two (day and
            month), or ``time_format`` is none.
    """
    words = list(map(tidy, words))
    seconds = np.full(len(words), np.nan)
    negative = {k for k, word in enumerate(words) if word.startswith("-") and NUMBER.fullmatch(word)}
    lost = sorted(filter(lambda k: says_unknown(words[k]), negative))
    if len(lost) < len(negative):  # a clock that starts later writes times below 0, and -1 is one of them
        lost = []
    warn(f"{{count}} [time of {where} is|times of {where} are] -1 or the like: not known", list(map(row, lost)))
    there = [k for k, word in enumerate(words) if k in negative.difference(lost) or not says_unknown(word)]
    column = _TimeColumn(words, there, where, row, cameras)
    if time_format is not None:
        read = {k: moment for k in there if (moment := _parse_by_format(words[k], time_format)) is not None}
        column.require_one({k: _zone_in_words(moment.tzinfo is not None) for k, moment in read.items()})
        utc = datetime.timezone.utc
        found = {k: (m if m.tzinfo else m.replace(tzinfo=utc)).timestamp() for k, m in read.items()}
    else:
        found = column.seconds()
    if found:
        seconds[list(found)] = list(found.values())
    return seconds, [k for k in there if k not in found]


def lacks_zone(word: str) -> bool:
    """Is it a date without a time zone?"""
    date = _parse_date(tidy(word))
    return date is not None and not date.zone


class _TimeColumn(NamedTuple):
    words: Sequence[str]
    there: list[int]
    where: object
    row: Callable[[int], str]
    cameras: Sequence[str] | None

    def seconds(self) -> dict[int, float]:
        """Seconds of each word that is a time."""
        kinds, numbers = {}, {}
        dates = {k: date for k in self.there if (date := _parse_date(self.words[k])) is not None}
        for k in self.there:
            if k not in dates and NUMBER.fullmatch(self.words[k]):
                numbers[k] = self.words[k]
        self._refuse_doubtful(numbers)
        read = {k: _unit_of_number(float(word.replace(",", "."))) for k, word in numbers.items()}
        units = {k: unit for k, unit in read.items() if unit is not None}
        for k in self.there:
            if k in dates:
                kinds[k] = "a date" if dates[k].year >= OLDEST_YEAR else f"a date before {OLDEST_YEAR}"
            elif k in units:
                kinds[k] = units[k]
        self.require_one(kinds)
        if not dates:
            self._refuse_thousands(numbers)
            self._refuse_days(numbers)
            self._refuse_rounded({k: numbers[k] for k, unit in units.items() if unit in UNITS})
            plain = {k: numbers[k].replace(",", ".") for k in units}  # integers divide without a rounding on the way
            return {k: (int(w) if w.isdigit() else float(w)) / UNITS.get(units[k], 1) for k, w in plain.items()}
        self.require_one({k: _zone_in_words(bool(date.zone)) for k, date in dates.items()})
        if by := self._by_camera({k: date.form for k, date in dates.items()}):
            logger.warning("cameras of %s write times in different ways, all of which are read: %s", self.where, by)
        day_first = {mark: self._day_first(mark, dates) for mark in {date.order for date in dates.values()} - {""}}
        found = {}
        for k, date in dates.items():
            if date.order and not day_first[date.order]:
                date = date._replace(day=date.month, month=date.day)
            if (moment := _seconds_of_date(date)) is not None:
                found[k] = moment
        return found

    def require_one(self, kinds: dict[int, str]) -> None:
        """Refuse words of more than one kind; the first of two of them are shown."""
        first: dict[str, int] = {}
        for k, kind in kinds.items():
            first.setdefault(kind, k)
        if len(first) < 2:
            return
        two = sorted(first.items(), key=lambda item: item[1])[:2]
        shown = " and ".join(f"{self.row(k)} ({self.words[k]!r}) is {kind}" for kind, k in two)
        by = self._by_camera(kinds)
        raise ValueError(
            f"times of {self.where} have more than one meaning: {shown}{f' ({by})' if by else ''}; write all of them "
            "in one way, on one clock"
        )

    def _by_camera(self, kinds: dict[int, str]) -> str:
        """Which cameras write what, where each writes in one way and not all in the same."""
        said: dict[str, set[str]] = {}
        for k, kind in kinds.items():
            said.setdefault(self.cameras[k] if self.cameras else "", set()).add(kind)
        ways: dict[str, list[str]] = {}
        for camera, ones in said.items():
            ways.setdefault(" or ".join(sorted(ones)), []).append(camera)
        if len(ways) < 2:
            return ""
        return ", ".join(
            f"{'camera' if len(c) == 1 else 'cameras'} {sample(sorted(c), 4)}: {way}" for way, c in ways.items()
        )

    def _refuse(self, k: int, why: str) -> None:
        raise ValueError(f"times of {self.where} such as {self.row(k)} ({self.words[k]!r}) {why}")

    def _refuse_doubtful(self, numbers: dict[int, str]) -> None:
        """Digits most of which are dates as well, such as 20260501 or 2026133163445, say nothing certain."""
        some = list(numbers.items())[:: len(numbers) // LOOKED_AT + 1]
        digits = {k: re.split("[.,]", word.lstrip("+"))[0] for k, word in some}
        for form, (sizes, meaning) in DOUBTFUL.items():
            dates = [k for k, word in digits.items() if len(word) in sizes and _is_written(word, form)]
            if 2 * len(dates) > len(digits):
                why = f"may be {meaning}, or a count from some start: give their time_format ({form}), or write "
                self._refuse(dates[0], why + ACCEPTED)

    def _refuse_rounded(self, numbers: dict[int, str]) -> None:
        """A spreadsheet that shows 1.77765E+12 saves it so, and the seconds are gone."""
        parts = [word.lower().partition("e") for word in numbers.values()]
        digits = [len(re.sub(r"\D", "", mantissa)) if power else 99 for mantissa, power, _ in parts]
        if digits and max(digits) < 8:
            why = f"were rounded to {max(digits)} digits, as spreadsheets do: save them again as whole numbers"
            self._refuse(next(iter(numbers)), why)

    def _refuse_thousands(self, numbers: dict[int, str]) -> None:
        commas = {k: word for k, word in numbers.items() if "," in word}
        if commas and all(map(GROUPED.fullmatch, commas.values())):
            why = "may have a decimal comma or a thousands mark: write them with a point, or without marks"
            self._refuse(next(iter(commas)), why)

    def _refuse_days(self, numbers: dict[int, str]) -> None:
        """Days of this century whose fractions are fine enough to be times of day, over less than a year."""
        values = [float(word.replace(",", ".")) for word in numbers.values()]
        fine = sum(len(re.split("[.,]", word)[-1]) > 3 for word in numbers.values() if re.search("[.,]", word))
        if 2 * fine > len(values) and max(values) - min(values) < 366:
            if any(first <= min(values) and max(values) <= last for first, last in DAYS):
                why = "may be days, as spreadsheets count them: write dates with a time of day, or seconds from 0 on"
                self._refuse(next(iter(numbers)), why)

    def _day_first(self, mark: str, dates: dict[int, Written]) -> bool:
        """Whether 01/02/2026 is the first of February, which a day beyond the 12th tells."""
        mine = {k: date for k, date in dates.items() if date.order == mark}
        day = next((k for k, date in mine.items() if date.day > 12), None)
        month = next((k for k, date in mine.items() if date.month > 12), None)
        if day is not None and month is not None:
            shown = " and ".join(f"{self.row(k)} ({self.words[k]!r})" for k in (day, month))
            raise ValueError(f"times of {self.where} have day and month in both orders: {shown}; write all in one")
        if day is None and month is None and mark != ".":
            why = "may be day or month first: say which with time_format, such as %d/%m/%Y %H:%M:%S"
            self._refuse(next(iter(mine)), why)
        return month is None


def _parse_date(word: str) -> Written | None:
    if word.isdigit() and len(word) not in STAMPS:
        return None
    match = DATE.fullmatch(word)
    if match is None:
        return None
    y, mark, m, d, cy, cm, cd, a, swap, b, z, hours, _, minutes, rest, part, ch, cmin, cs, cpart, half, zone = (
        match.groups()
    )
    hour, minute, second = int(hours or ch), int(minutes or cmin), int(rest or cs or 0)
    if minute > 59 or second > 59 or hour > 23 or (half and not 1 <= hour <= 12):
        return None
    hour = hour % 12 + 12 * (half in "pP") if half else hour
    year, month, day = int(y or cy or z), int(m or cm or b), int(d or cd or a)
    east = zone.upper().removeprefix("UTC").removeprefix("GMT") or "Z" if zone else ""
    form = (swap or mark or "").join("DMY" if swap else "YMD") + (f" {east}" if east else "")
    of_day = 3600 * hour + 60 * minute + second
    written = Written(year, month, day, of_day, part or cpart or "", east, swap or "", form)
    # digits alone are a date only where the calendar has it
    return written if swap or _days_since_1970(year, month, day) is not None else None


def _seconds_of_date(date: Written) -> float | None:
    """Seconds since 1970; None for a day that the calendar does not have."""
    days = _days_since_1970(date.year, date.month, date.day)
    if days is None:
        return None
    hours, minutes = (int(part or 0) for part in (date.zone[1:3], date.zone[3:].lstrip(":")))
    east = (3600 * hours + 60 * minutes) * (-1 if date.zone.startswith("-") else 1)
    if hours > 14 or minutes > 59:
        return None
    scale = 10 ** len(date.fraction)
    return ((86400 * days + date.second - east) * scale + int(date.fraction or 0)) / scale


@lru_cache(maxsize=4096)
def _days_since_1970(year: int, month: int, day: int) -> int | None:
    try:
        return datetime.date(year, month, day).toordinal() - 719163 if year in YEARS else None
    except ValueError:
        return None


def _is_written(word: str, form: str) -> bool:
    """Whether digits are a date of 1990 to 2099 in a form, each part as long as it can be."""
    try:
        date = datetime.datetime.strptime(word, form)
        return word.isdigit() and 1990 <= date.year < 2100 and word.startswith(date.strftime(form.removesuffix("%f")))
    except ValueError:
        return False


def _unit_of_number(value: float) -> str | None:
    """What a number counts; None for one that is too large for seconds and in no unit a time since 2000."""
    if abs(value) < EARLIEST:
        return "seconds" if abs(value) < OLDEST else "seconds since 1970"
    return next((unit for unit, scale in UNITS.items() if EARLIEST <= value / scale <= LATEST), None)


def _zone_in_words(zone: bool) -> str:
    return "a time with a time zone" if zone else "a time without a time zone"


def _parse_by_format(word: str, form: str) -> datetime.datetime | None:
    if "%I" in form and "%p" not in form:
        raise ValueError(f"time_format is {form!r}: %I needs %p beside it; the hour of a day is %H")
    for whole in (form,) if "%f" in form else (form, form + ".%f"):
        try:
            moment = datetime.datetime.strptime(word, whole)
            moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()
            return moment
        except re.error as error:
            raise ValueError(f"time_format is {form!r}: it names a part twice ({error})") from error
        except (ValueError, OverflowError) as error:
            if "directive" in str(error) or "stray" in str(error):
                raise ValueError(f"time_format is {form!r}, which strptime does not know: {error}") from error
    return None
