"""Why two images are alike: sums over branches and over places that are the similarity itself."""

import pytest
import torch
from torch.nn import functional

from torchreid_dfrst.models.explain import EXACT, explain
from torchreid_dfrst.models.zoo import NETWORKS, build


def trained(name, **options):
    """A network whose batch norms have seen images, so that two embeddings are not alike."""
    torch.manual_seed(0)
    model = build(name, 5, pretrained=False, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        model.train()(torch.randn(6, 3, 64, 64))
    return model.eval()


def check(model, a, b):
    with torch.no_grad():
        x, y = functional.normalize(model(torch.stack([a, b])).double(), dim=1)
    found = explain(model, a, b)
    similarity = float(x @ y)
    assert abs(similarity) < 0.98, "two equal embeddings would prove little"
    assert found.similarity == pytest.approx(similarity, abs=1e-5)
    assert list(found.branches) == list(model.branches)
    with torch.no_grad():
        for name, part in model.branches.items():
            assert found.branches[name] == pytest.approx(float(x[part] @ y[part]), abs=1e-5)
    for side in (found.first, found.second):
        for name, places in side.items():
            assert float(places.sum()) == pytest.approx(found.branches[name], abs=1e-5)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_sums_are_the_similarity_for_every_registered_network(name):
    if NETWORKS[name][1].get("backbone", "resnet")[:6] != "resnet":
        pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(1)
    model = trained(name)
    assert {head.pool for head in model.groups.values()} <= set(EXACT)
    a, b = torch.randn(2, 3, 80, 80)  # 5 x 5 places: strips overlap
    check(model, a, b)


@pytest.mark.parametrize("options", [{"normalise_branches": True}, {"pool": "max"}])
def test_options_that_change_what_a_place_brings(options):
    torch.manual_seed(2)
    model = trained("dfrst_resnet18", **options)
    a, b = torch.randn(2, 3, 64, 64)
    found = check(model, a, b)
    assert model.training is False
    strip = found.first["height_0"]
    assert strip[0].abs().sum() > 0 and strip[1:].abs().sum() == 0, "a strip's places are its own"
    if options.get("pool") == "max":
        assert (found.first["coarse"] != 0).sum() > 1


def test_a_place_that_is_taken_away_is_missed_by_what_it_brought():
    """The map of an average says what would happen: take a place's activations out, and so much is gone."""
    model = trained("bot_resnet18")
    torch.manual_seed(3)
    a, b = torch.randn(2, 3, 64, 64)
    found = explain(model, a, b)
    head = model.groups["whole"]
    with torch.no_grad():
        maps = model.feature_maps(torch.stack([a, b]))["whole"].double()
        head = head.double()
        one, two = (head(maps[[k]])[1].flatten() for k in (0, 1))
        less = maps[[0]].clone()
        less[..., 1, 2] = 0
        gone = (one - head(less)[1].flatten()) @ two / (one.norm() * two.norm())
        shift = head(torch.zeros_like(less))[1].flatten() @ two / (one.norm() * two.norm()) / maps[0, 0].numel()
    assert float(found.first["whole"][1, 2]) == pytest.approx(float(gone + shift), abs=1e-6)


def test_what_cannot_be_taken_apart_is_refused():
    a, b = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="pooling gem is no sum over places"):
        explain(build("dfrst_resnet18", 5, pretrained=False, pool="gem"), a, b)
    with pytest.raises(ValueError, match="Linear is not one of our networks"):
        explain(torch.nn.Linear(3, 3), a, b)
