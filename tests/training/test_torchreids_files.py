"""What torchreid's own engine wrote is read: by us, and by torchreid once we are imported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchreid

from torchreid_dfrst.inference import open_network
from torchreid_dfrst.models.weights import read_weights


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One epoch of torchreid's engine on one of our networks, as its ``main.py`` runs it, with the test after it."""
    from tiny import write_tiny_veri

    folder = tmp_path_factory.mktemp("torchreid")
    write_tiny_veri(folder / "data" / "veri776")
    data = torchreid.data.ImageDataManager(
        root=str(folder / "data"), sources="veri776", height=64, width=64, batch_size_train=8, batch_size_test=32,
        workers=0, use_gpu=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = torchreid.models.build_model("dfrst_resnet18", data.num_train_pids, loss="softmax", pretrained=False)
    optimizer = torchreid.optim.build_optimizer(model)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer)
    engine = torchreid.engine.ImageSoftmaxEngine(data, model, optimizer, scheduler=scheduler, use_gpu=False)
    engine.run(save_dir=str(folder), max_epoch=1)
    return folder / "model" / "model.pth.tar-1", model.eval()


def test_the_file_is_one_that_pytorch_alone_refuses(written):
    path, _ = written
    code = f"import torch; torch.load({str(path)!r}, map_location='cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "GLOBAL numpy" in done.stderr and "multiarray.scalar" in done.stderr


def test_it_is_read_with_the_name_of_its_network(written):
    path, model = written
    opened, about = open_network(path, {"model": {"name": "dfrst_resnet18"}, "height": 64, "width": 64})
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(opened(images), model(images))
    assert about["num_classes"] == model.heads["coarse"].classifier.weight.shape[0]
    assert set(read_weights(path)) == set(model.state_dict())


def test_torchreids_own_functions_read_it(written, tmp_path):
    path, model = written
    fresh = torchreid.models.build_model("dfrst_resnet18", 3, pretrained=False).eval()
    torchreid.utils.load_pretrained_weights(fresh, str(path))
    name = "trunk.conv1.weight"
    assert torch.equal(fresh.state_dict()[name], model.state_dict()[name])
    optimizer = torchreid.optim.build_optimizer(model)
    assert torchreid.utils.resume_from_checkpoint(str(path), model, optimizer) == 1
    extract = torchreid.utils.FeatureExtractor("dfrst_resnet18", str(path), image_size=(64, 64), device="cpu")
    found = extract(np.zeros((80, 60, 3), np.uint8))
    assert found.shape == (1, model.feature_dim)
