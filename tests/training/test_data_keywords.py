"""Settings of the data that cannot be used, or that nothing reads."""

import pytest
from runs import manager

from torchreid_dfrst import config
from torchreid_dfrst.training import sections


@pytest.mark.parametrize(
    ("mean", "deviation", "message"),
    [
        ([0, 0, 0], None, r"norm_mean is \[0, 0, 0\] and norm_std is not given"),
        (None, [1, 1, 1], r"norm_std is \[1, 1, 1\] and norm_mean is not given"),
        ([0, 0], [1, 1, 1], r"norm_mean is \[0, 0\]: one number for each"),
        ([0, 0, 0], [1], r"norm_std is \[1\]: one number for each"),
        ([0, 0, 0], [1, 0, 1], r"norm_std is \[1, 0, 1\]: numbers above 0"),
        ([0, 0, 0], [1, float("nan"), 1], r"norm_std is .*: numbers above 0"),
    ],
)
def test_an_unusable_normalisation_is_an_error(mean, deviation, message, tiny_veri):
    with pytest.raises(ValueError, match=f"^{message}"):
        manager(tiny_veri, norm_mean=mean, norm_std=deviation)


def test_keywords_of_torchreids_that_nothing_reads_are_no_keys_of_a_configuration():
    with pytest.raises(KeyError, match="unknown key 'k_tfm' in section 'data'"):
        config.load(None, ["data.k_tfm", "3"], sections())
