"""Registration with torchreid, and torchreid's own engines and tools on our models, on both of its layouts."""

import os

import pytest
import torchreid
from layouts import run_with

from torchreid_dfrst import registry
from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.models import FACTORIES


@pytest.fixture
def models():
    """torchreid's table of models; a test may spoil it."""
    table = vars(torchreid.models)["__model_factory"]
    before = dict(table)
    yield table
    table.clear()
    table.update(before)


def test_every_model_and_data_set_is_known_to_torchreid(models):
    assert set(FACTORIES) <= set(models)
    assert set(DATASETS) <= set(vars(torchreid.data.datasets)["__image_datasets"])
    model = torchreid.models.build_model("dfrst_resnet18", 7, loss="triplet", pretrained=False, use_gpu=False)
    assert len(model.branches) == 14


def test_registering_twice_equals_once(models):
    datasets = vars(torchreid.data.datasets)["__image_datasets"]
    before = dict(models), dict(datasets)
    registry.register()
    assert (models, datasets) == before


def test_registering_fills_a_table_that_lacks_us(models):
    for name in FACTORIES:
        del models[name]
    registry.register()
    assert {name: models[name] for name in FACTORIES} == FACTORIES


def test_another_model_under_our_name_is_not_replaced(models):
    del models["dfrst_resnet18"]
    models["dfrst"] = torchreid.models.resnet18
    with pytest.raises(ValueError, match=r"already knows a model 'dfrst', torchreid.*resnet\.resnet18"):
        registry.register()
    assert models["dfrst"] is torchreid.models.resnet18
    assert "dfrst_resnet18" not in models, "all names or none"


def test_a_torchreid_without_the_table_is_named(monkeypatch):
    monkeypatch.delitem(vars(torchreid.models), "__model_factory")
    with pytest.raises(RuntimeError, match=r"no table torchreid.*models\.__model_factory.*0\.2\.5"):
        registry.register()


ORDERS = {
    "torchreid first": "import torchreid, torchreid_dfrst",
    "torchreid last": "import torchreid_dfrst, torchreid",
    "a data set first": "import torchreid_dfrst.data.table, torchreid",
    "the tables first": "import torchreid_dfrst.torchreid_tables, torchreid",
    "the registry first": "from torchreid_dfrst import registry; registry.register()",
    "by hand": "import torchreid_dfrst; torchreid_dfrst.register()",
}
KNOWN = """
import os, sys
import cv2, h5py, matplotlib, scipy.io, tensorboard, torch, torchvision  # once for all that follow, to save time

def ours_are_known():
    import torchreid, torchreid_dfrst.data, torchreid_dfrst.models
    models, datasets = vars(torchreid.models)["__model_factory"], vars(torchreid.data.datasets)["__image_datasets"]
    assert torchreid_dfrst.models.FACTORIES.items() <= models.items()
    assert torchreid_dfrst.data.DATASETS.items() <= datasets.items()
    return torchreid.__version__

for order in sys.argv[1:]:
    if os.fork() == 0:
        print("#", order, file=sys.stderr)
        exec(order)
        print(ours_are_known(), order, flush=True)
        os._exit(0)
    os.wait()
"""


def test_torchreid_knows_us_in_either_order_of_imports(torchreid_layout):
    run = run_with(torchreid_layout, "-c", KNOWN, *ORDERS.values(), env=dict(os.environ))
    version = "1.4.0" if torchreid_layout else "0.2.5"
    assert run.stdout.splitlines() == [f"{version} {order}" for order in ORDERS.values()], run.stderr[-3000:]
    # it cannot be told any more not to advise compiling what ours takes the place of
    said = [order.splitlines()[0] for order in run.stderr.split("# ")[1:] if "Cython evaluation" in order]
    assert said == [ORDERS["torchreid first"]]


STOCK = """
import sys
from pathlib import Path

import torch
import torchreid
import torchreid_dfrst

root, layout = sys.argv[1:]
inside = Path(torchreid.models.__file__).parent.parent.name
assert inside == ("reid" if layout == "0.2.5" else "torchreid"), torchreid.models.__file__
torchreid_dfrst.register()

manager = torchreid.data.ImageDataManager(
    root=root, sources="veri776", height=64, width=64, batch_size_train=8, batch_size_test=8, num_instances=2,
    train_sampler="RandomIdentitySampler", transforms=["random_flip"], use_gpu=False, workers=0,
)
for loss, engine in (
    ("softmax", torchreid.engine.ImageSoftmaxEngine),
    ("triplet", torchreid.engine.ImageTripletEngine),
):
    model = torchreid.models.build_model(
        "dfrst_resnet18", manager.num_train_pids, loss=loss, pretrained=False, use_gpu=False
    )
    optimizer = torchreid.optim.build_optimizer(model, lr=1e-3)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer)
    before = {name: value.clone() for name, value in model.named_parameters()}
    run = engine(manager, model, optimizer, scheduler=scheduler, use_gpu=False)
    run.run(save_dir=f"{root}/{loss}", max_epoch=1, print_freq=1, ranks=[1])
    still = [name for name, value in model.named_parameters() if torch.equal(before[name], value)]
    assert not still, still

path = f"{root}/weights.pth"
torch.save(model.state_dict(), path)  # the engine's own file holds a NumPy scalar that torch.load refuses
extractor = torchreid.utils.FeatureExtractor("dfrst_resnet18", path, image_size=(64, 64), device="cpu")
images = [item[0] for item in manager.test_loader["veri776"]["query"].dataset.query]
features = extractor(images)
assert features.shape == (len(images), 4096), features.shape

query = next(iter(manager.test_loader["veri776"]["query"]))["img"]
with torch.no_grad():
    expected = model.eval()(query)
    maps = model(query, return_featuremaps=True)
assert torch.allclose(features[: len(query)], expected, atol=1e-4), (features[: len(query)] - expected).abs().max()
assert expected.std(0).max() > 0, "features that are all alike would prove nothing"
assert maps.dim() == 4
print("done")
"""


def test_stock_engines_and_extractor_take_our_model(torchreid_layout, tiny_veri):
    version = "1.4.0" if torchreid_layout else "0.2.5"
    run = run_with(
        torchreid_layout, "-c", STOCK, str(tiny_veri), version, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert run.stdout.endswith("done\n")


def test_torchreids_complexity_tool_counts_every_parameter_of_inference_once():
    model = torchreid.models.build_model("dfrst_resnet18", 7, pretrained=False, use_gpu=False)
    parameters, operations = torchreid.utils.compute_model_complexity(model, (1, 3, 64, 64))
    classifiers = sum(head.classifier.weight.numel() for head in model.groups.values())
    assert parameters == sum(p.numel() for p in model.parameters()) - classifiers
    assert operations > 1e8
