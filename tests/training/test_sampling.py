import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchreid_dfrst.data.sampling import EpochSampler, balanced_epoch, shuffled_epoch


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 15), min_size=4, max_size=12),
    instances=st.integers(1, 4),
    places=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_batch_has_p_identities_with_k_images(counts, instances, places, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = balanced_epoch(labels, places * instances, instances, seed, epoch=3)
    assert rows.shape == (max(1, len(labels) // (places * instances)), places * instances)
    for row in rows:
        hands = labels[row].reshape(places, instances)
        assert (hands == hands[:, :1]).all()
        assert len(set(hands[:, 0])) == places
        for identity, hand in zip(hands[:, 0], row.reshape(places, instances), strict=True):
            if counts[identity] >= 2 * instances:
                assert len(set(hand)) == instances, "an identity with enough images repeats none in a batch"


def test_an_epoch_sees_nearly_every_image_once():
    labels = np.repeat(np.arange(30), np.random.default_rng(0).integers(8, 60, 30))
    seen = np.bincount(balanced_epoch(labels, 32, 4, seed=1, epoch=0).ravel(), minlength=len(labels))
    assert (seen > 0).mean() > 0.9
    assert seen.max() <= 3


def test_epochs_and_seeds_differ_and_repeat():
    labels = np.repeat(np.arange(8), 8)
    first = balanced_epoch(labels, 8, 2, seed=0, epoch=0)
    assert (first == balanced_epoch(labels, 8, 2, seed=0, epoch=0)).all()
    assert (first != balanced_epoch(labels, 8, 2, seed=0, epoch=1)).any()
    assert (first != balanced_epoch(labels, 8, 2, seed=1, epoch=0)).any()


@pytest.mark.parametrize("name", ["RandomIdentitySampler", "RandomSampler"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one(name, world_size):
    labels = np.repeat(np.arange(10), 9)
    whole = EpochSampler(labels, 16, 4, name=name, seed=5)
    parts = [EpochSampler(labels, 16, 4, name=name, seed=5, rank=r, world_size=world_size) for r in range(world_size)]
    for sampler in [whole, *parts]:
        sampler.seek(2)
    joined = [[key for share in shares for key in share] for shares in zip(*parts, strict=True)]
    assert joined == list(whole)


def test_seeking_skips_and_changes_nothing_else():
    sampler = EpochSampler(np.repeat(np.arange(10), 9), 16, 4, seed=5)
    sampler.seek(1)
    whole = list(sampler)
    assert len({seed for batch in whole for _, seed, _ in batch}) == len(whole) * 16, "each place has its own seed"
    sampler.seek(1, 3)
    assert list(sampler) == whole[3:]


def print_digest():
    labels = np.repeat(np.arange(576), np.random.default_rng(0).integers(20, 120, 576))
    print(hashlib.sha256(balanced_epoch(labels, 64, 4, seed=0, epoch=0).tobytes()).hexdigest())


@pytest.mark.parametrize("vector_units", [True, False])
def test_the_batches_do_not_depend_on_the_processor(vector_units):
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    changed = {} if vector_units else {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent.parent), str(here), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", "from test_sampling import print_digest; print_digest()"]
    said = subprocess.run(
        words, env={**os.environ, **changed, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "cb11914565d6a8668af8611061f0fa37897c54253d2ea7dec0bbf87458823471"


def test_shuffled_epoch_repeats_no_image():
    rows = shuffled_epoch(50, 8, seed=0, epoch=0)
    assert rows.shape == (6, 8)
    assert len(set(rows.ravel().tolist())) == 48


def test_what_cannot_be_sampled_is_said():
    labels = np.repeat(np.arange(3), 4)
    with pytest.raises(ValueError, match="needs 4 identities, the training set has 3"):
        balanced_epoch(labels, 8, 2, 0, 0)
    with pytest.raises(ValueError, match="use a multiple"):
        balanced_epoch(labels, 7, 2, 0, 0)
    with pytest.raises(KeyError, match="did you mean 'RandomIdentitySampler'"):
        EpochSampler(labels, 4, 2, name="RandomIdentitySample")
    with pytest.raises(ValueError, match="not a multiple of the 3 processes"):
        EpochSampler(labels, 4, 2, world_size=3)
    with pytest.raises(ValueError, match="do not fill one batch"):
        EpochSampler(labels, 16, 2, name="RandomSampler")


def test_identities_with_few_images_are_counted_aloud(caplog):
    EpochSampler([0, 0, 0, 1, 2, 2, 2], 4, 2)
    assert "1 of 3 training identities have fewer than data.num_instances=2 images" in caplog.text
