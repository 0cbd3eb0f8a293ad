"""Options that a data set takes beside those every data set has, such as VehicleID's ``reverse``; strict by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import yaml

from torchreid_dfrst.checks import check, nearest
from torchreid_dfrst.config import keywords
from torchreid_dfrst.data import DATASETS

FOR_ALL = ("root", "split_id")


def known_options(name: str) -> dict[str, Any]:
    """Options of a data set and their types, from its signature; data sets of torchreid's own have none."""
    return keywords(DATASETS[name], leave_out=FOR_ALL).expected if name in DATASETS else {}


def share(options: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give each option to every named data set that takes it.

    Args:
        options: name to value.
        names: of data sets.

    Returns:
        data set to its options, for those that get any.

    Raises:
        KeyError: no data set of these takes an option; the message has the nearest one.
        ValueError: a value is of another type than the data set's signature says.
    """
    names = list(dict.fromkeys(names))
    taken = {name: known_options(name) for name in names}
    types = {option: kind for mine in taken.values() for option, kind in mine.items()}
    for option, value in (options or {}).items():
        if option not in types:
            hint = nearest(str(option), types) if types else ", nor any other"
            raise KeyError(f"{' and '.join(names)} has no option {option!r}{hint}")
        check(f"option {option} of {' and '.join(n for n in names if option in taken[n])}", value, types[option])
    shared = {name: {o: v for o, v in (options or {}).items() if o in taken[name]} for name in names}
    return {name: mine for name, mine in shared.items() if mine}


def parse(words: Sequence[str], name: str) -> dict[str, Any]:
    """Options of one data set from ``key=value`` words of a command line; values as YAML, text as it is.

    Raises:
        KeyError: the data set does not take such an option.
        ValueError: a word has no ``=``, or a value is of another type.
    """
    types, found = known_options(name), {}
    for word in words:
        option, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--option {word!r} has no value: write it as key=value")
        # a format of times may begin with %, which YAML refuses
        is_text = str in (types.get(option), *get_args(types.get(option)))
        try:
            found[option] = text if is_text else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--option {word!r}: the value is not YAML ({error})") from error
    return share(found, [name]).get(name, {})
