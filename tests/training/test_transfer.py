"""Images and labels go to the device without anybody waiting for it."""

import pytest
import torch
from networks import TinyNet

from torchreid_dfrst.losses import DFRSTLoss
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.step import TrainStep


@pytest.fixture
def batch(monkeypatch):
    """A batch, and how each of its parts was sent."""
    made = {"img": torch.randn(4, 3, 32, 32), "pid": torch.tensor([0, 0, 1, 1]), "camid": torch.zeros(4).long()}
    sent, send = {}, torch.Tensor.to

    def watched(self, *args, **options):
        sent.update({name: options.get("non_blocking") for name, part in made.items() if self is part})
        return send(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    return {**made, "impath": list("abcd")}, sent


def test_a_step_sends_without_waiting(batch):
    (data, sent), model = batch, TinyNet(2)
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), DFRSTLoss(), torch.device("cpu"))
    step(data["img"], data["pid"])
    assert sent == {"img": True, "pid": True}


def test_an_extraction_sends_without_waiting(batch):
    data, sent = batch
    embed(TinyNet(2), [data])
    assert sent == {"img": True}
