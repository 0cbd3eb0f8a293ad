"""Numbers and their ranges: the message has the name, the value and the range."""

import math

import pytest

from torchreid_dfrst.checks import named, within


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-1, {}, "a is -1: 0 or more$"),
        (math.nan, {}, "a is nan: 0 or more$"),
        (0, {"lowest": 1}, "a is 0: 1 or more$"),
        (1.5, {"highest": 1}, "a is 1.5: 0 or more, at most 1$"),
        (1.0, {"below": 1}, "a is 1.0: 0 or more, less than 1$"),
    ],
)
def test_a_number_out_of_its_range(value, limits, message):
    with pytest.raises(ValueError, match=message):
        within("a", value, **limits)


@pytest.mark.parametrize(("value", "limits"), [(0, {}), (1, {"lowest": 1}), (1, {"highest": 1}), (0.9, {"below": 1})])
def test_a_number_in_its_range(value, limits):
    within("a", value, **limits)


def test_only_an_error_that_starts_with_a_key_is_of_the_section():
    with pytest.raises(ValueError, match=r"^optim\.lr is -1: 0 or more$"), named("optim", ["lr"]):
        within("lr", -1)
    with pytest.raises(ValueError, match=r"^lr is -1: 0 or more$"), named("optim", ["momentum"]):
        within("lr", -1)
    with pytest.raises(KeyError, match="lr"), named("optim", ["lr"]):
        raise KeyError("lr is unknown")
