import pytest
import torch

from torchreid_dfrst.training.optimizer import build_scheduler


def rates(steps, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    scheduler = build_scheduler(optimizer, steps_per_epoch=10, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_paper_recipe_rises_for_ten_epochs_and_falls_at_60_and_100():
    lr = rates(1350)
    assert lr[0] == pytest.approx(1e-6)
    assert lr[50] == pytest.approx((1e-6 + 1e-4) / 2)
    assert lr[100] == lr[599] == pytest.approx(1e-4)
    assert lr[600] == lr[999] == pytest.approx(1e-5)
    assert lr[1000] == lr[1349] == pytest.approx(1e-6)


def test_other_schedules():
    assert rates(30, lr_scheduler="constant", warmup_epoch=0) == pytest.approx([1e-4] * 30)
    assert rates(30, lr_scheduler="single_step", stepsize=1, warmup_epoch=0)[::10] == pytest.approx([1e-4, 1e-5, 1e-6])
    cosine = rates(41, lr_scheduler="cosine", max_epoch=4, warmup_epoch=0)
    assert cosine[20] == pytest.approx(5e-5)
    assert cosine[40] == pytest.approx(0, abs=1e-12)


def test_bad_schedules_are_named():
    with pytest.raises(KeyError, match="did you mean 'multi_step'"):
        rates(1, lr_scheduler="multistep")
    with pytest.raises(ValueError, match="a list of epochs"):
        rates(1, lr_scheduler="multi_step", stepsize=20)
    with pytest.raises(ValueError, match="one number of epochs"):
        rates(1, lr_scheduler="single_step", stepsize=[20])
