"""However it is said that memory ran out, it becomes one line with what to lower."""

import re

import numpy as np
import pytest
import torch
from networks import TinyNet
from runs import engine
from torch._utils import ExceptionWrapper

from torchreid_dfrst import inference
from torchreid_dfrst.training.memory import explained

TOO_LARGE = {
    "numpy": (lambda: np.empty(1 << 50), "Unable to allocate"),
    "python": (lambda: bytearray(1 << 60), "MemoryError"),
    "torch": (lambda: torch.empty(1 << 60, dtype=torch.uint8), "can't allocate memory"),
}


class Greedy(TinyNet):
    def forward(self, x):
        TOO_LARGE["torch"][0]()
        return super().forward(x)


def quoted(ask):
    """What the main process raises of an error in a loading process."""
    try:
        ask()
    except Exception:
        ExceptionWrapper(where="in DataLoader worker process 0").reraise()


@pytest.mark.parametrize("loading", [False, True])
@pytest.mark.parametrize("who", TOO_LARGE)
def test_memory_that_ran_out_is_said_in_one_line(who, loading):
    ask, words = TOO_LARGE[who]
    with pytest.raises(OSError, match=r"^memory ran out \(.*\): lower data\.batch_size_train") as error, explained():
        quoted(ask) if loading else ask()
    said = str(error.value)
    assert words in said and "\n" not in said and "\\n" not in said and "Traceback" not in said


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), RuntimeError("")], ids=repr)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error), match=f"^{re.escape(str(error))}$") as raised, explained():
        raise error
    assert raised.value is error


def test_an_evaluation_without_memory_says_what_to_lower(tiny_veri, tmp_path):
    with pytest.raises(OSError, match=r"memory ran out .*: lower data\.batch_size_train \(or batch_size_test\)"):
        engine(tiny_veri, network=Greedy).run(save_dir=str(tmp_path), test_only=True)


def test_an_extraction_without_memory_says_what_to_lower(tiny_veri, monkeypatch):
    about = {"model": {}, "height": 32, "width": 32, "weights": "weights.safetensors", "weights_sha256": ""}
    monkeypatch.setattr("torchreid_dfrst.inference.extraction.open_network", lambda *_: (Greedy(4), about))
    with pytest.raises(OSError, match=r"memory ran out .*: lower --batch-size or --workers"):
        inference.extract("weights.safetensors", str(tiny_veri), "veri776", workers=0)
