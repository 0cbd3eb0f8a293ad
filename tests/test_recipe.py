"""The paper's own choices, word by word: whoever changes one has to change its line here as well."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tools.studies.reproduction import paper
from torchreid_dfrst.config import keywords
from torchreid_dfrst.data.veri776 import VeRi776
from torchreid_dfrst.losses import DFRSTLoss, batch_hard_triplet
from torchreid_dfrst.models import build
from torchreid_dfrst.models.zoo import NETWORKS, default_options
from torchreid_dfrst.spatiotemporal import build as build_model

ROOT = Path(__file__).parent.parent
PAPERS = {
    "loss.triplet_weight": 0.4,  # "lambda in Eq. (1) is set to 0.4"
    "loss.epsilon": 0.1,  # "epsilon in Eq. (2) is set to 0.1"
    "loss.margin": 1.2,  # "m in Eq. 3 is set to 1.2"
    "optim.optim": "adam",  # "we apply the adam optimizer"
    "optim.weight_decay": 5e-4,  # "with a weight decay 5e-4"
    "optim.lr": 1e-4,  # "the initial learning rate is 1e-4"
    "data.batch_size_train": 32,  # "the batch size is 32"
    "data.num_instances": 4,  # "randomly selected eight identities and four images of each identity"
    "train.max_epoch": 135,  # "for 135 epochs"
    "spacetime.weight": 0.2,  # "omega in Eq. (6) is set to 0.2"
    "spacetime.model": "lognormal",  # Eq. (4) and (5)
    "model.name": "dfrst",
    "data.sources": ["veri776"],
    "data.targets": ["veri776"],
    "rerank.k1": 20,  # [49]'s, which the paper adopts
    "rerank.k2": 6,
    "rerank.lambda_value": 0.3,
}
OURS = {
    "model.pretrained": True,
    "data.height": 256,
    "data.width": 256,
    "data.transforms": ["random_flip", "random_crop", "random_erase"],
    "data.batch_size_test": 128,
    "optim.adam_beta2": 0.999,
    "scheduler.warmup_epoch": 10,
    "scheduler.warmup_lr": 1e-6,
    "scheduler.lr_scheduler": "multi_step",
    "scheduler.stepsize": [60, 100],
    "scheduler.gamma": 0.1,
    "train.save_dir": "runs/dfrst_veri776",
    "train.eval_freq": 15,
    "train.print_freq": 50,
    "train.keep_freq": 45,
}


def flat(sections):
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def test_the_recipe_for_veri_is_the_papers():
    assert flat(yaml.safe_load((ROOT / "configs" / "dfrst_veri776.yaml").read_text("utf-8"))) == PAPERS | OURS


def test_the_papers_tables_are_trained_by_the_same_recipe():
    content = yaml.safe_load((ROOT / "configs" / "reproduce" / "veri776.yaml").read_text("utf-8"))
    assert content["backbone"] == "resnet50"
    given = flat(content["training"] | content["scoring"])
    own = ("model.name", "spacetime.", "train.save_dir", "train.eval_freq", "train.print_freq", "train.keep_freq")
    wanted = {name: value for name, value in (PAPERS | OURS).items() if not name.startswith(own)}
    assert given == {**wanted, "train.pictures": False}
    assert content["networks"] == {"baseline": {"loss": {"triplet_weight": 0.0}}}


def test_the_defaults_of_the_code_are_the_papers_too():
    given = keywords(DFRSTLoss).defaults
    assert {f"loss.{name}": given[name] for name in ("triplet_weight", "margin", "epsilon")}.items() <= PAPERS.items()
    fitted = build_model("lognormal")
    assert {name: fitted.options[name] for name in fitted.options if name.startswith(("slope", "offset"))} == dict(
        slope_s=6.0, slope_t=6.0, offset_s=0.5, offset_t=0.5
    )


def test_the_papers_figures_are_unchanged():
    """After a look at the paper's tables, write the new digest here."""
    figures = {name: value for name, value in sorted(vars(paper).items()) if name.startswith("TABLE_")}
    assert (
        hashlib.sha256(repr(figures).encode()).hexdigest()
        == "619743a3a1bcc2d759ef6c20eb79167deecb9208b843b173a6437e44db8e508f"
    )


def test_a_veri_frame_is_a_25th_of_a_second(tiny_veri):
    data = VeRi776.read(VeRi776.find(tiny_veri))
    for part in data.parts().values():
        frames = [int(Path(path).name.split("_")[2].split(".")[0]) for path in part.path.tolist()]
        assert max(frames) > 0
        np.testing.assert_allclose(part.time_s, np.array(frames) / 25)


@pytest.mark.parametrize("name", ["dfrst_resnet18", "dfrst_coarse", "dfrst_attention", "bot_resnet18"])
def test_heads_pool_by_the_average_and_split_before_and_after_the_batch_norm(name):
    """ "Average pooling ... and a 1 x 1 convolutional layer"; [44]: triplet before the batch norm, classes after it."""
    torch.manual_seed(0)
    options = {"backbone": "resnet18"} if "backbone" in default_options(name) else {}
    model = build(name, 5, loss="triplet", pretrained=False, **options).train()
    images = torch.randn(4, 3, 64, 64)
    pooled, necks = {}, {}
    for group, head in model.groups.items():
        head.register_forward_pre_hook(lambda _, given, group=group: pooled.__setitem__(group, given[0]))
        if isinstance(head.neck, torch.nn.BatchNorm1d):
            head.neck.register_forward_hook(lambda _, __, out, group=group: necks.__setitem__(group, out))
    logits, features = model(images)
    start = 0
    for group, head in model.groups.items():
        found = torch.cat(features[start : start + head.parts], dim=1)
        scores = torch.stack(logits[start : start + head.parts], dim=1)
        start += head.parts
        if head.division == "whole":
            torch.testing.assert_close(found, head.reduce(pooled[group].mean((2, 3)).unsqueeze(1)).flatten(1))
        expected = torch.nn.functional.batch_norm(found, None, None, head.neck.weight, None, training=True)
        torch.testing.assert_close(necks[group], expected)
        assert not torch.allclose(found, necks[group], atol=0.1), "a feature that is normalised proves nothing"
        torch.testing.assert_close(scores, head.classifier(necks[group].unflatten(1, (head.parts, -1))))


def test_the_coarse_network_has_nothing_of_the_fine_stream():
    model = build("dfrst_coarse", 5, pretrained=False, backbone="resnet18")
    assert list(model.streams) == ["coarse"] and list(model.heads) == ["coarse"]
    assert not any("attention" in name for name, _ in model.named_modules())
    alone = build("bot", 5, pretrained=False, backbone="resnet18")
    assert sum(p.numel() for p in model.streams.parameters()) == sum(p.numel() for p in alone.streams.parameters())
    assert set(NETWORKS["dfrst_coarse"][1]) == {"fine", "divisions", "attention"}


def test_the_triplet_loss_is_that_of_the_features_as_they_come():
    features, labels = torch.randn(6, 4) * 3, torch.tensor([0, 0, 1, 1, 2, 2])
    whole = DFRSTLoss()((torch.randn(6, 3),), (features,), labels)
    torch.testing.assert_close(whole.triplet, batch_hard_triplet(features, labels, 1.2))
