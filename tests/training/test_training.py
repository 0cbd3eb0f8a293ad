"""A whole run through the command, and what it leaves behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchreid
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import write_tiny_veri

from torchreid_dfrst import config
from torchreid_dfrst.cli import main
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.inference import extract, input_transform, open_network
from torchreid_dfrst.models import pretrained
from torchreid_dfrst.models.weights import read_weights
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training import build_optimizer, checkpoint, sections, train, with_defaults
from torchreid_dfrst.training.embed_images import embed
from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError

pytestmark = pytest.mark.usefixtures("thin_resnets")

SMALL = {
    "model": {"name": "dfrst_resnet18", "pretrained": False, "parts": 2},
    "data": {
        "sources": "veri776",
        "height": 32,
        "width": 32,
        "transforms": ["random_flip", "random_crop", "random_erase"],
        "batch_size_train": 8,
        "num_instances": 2,
        "workers": 0,
    },
    "train": {"max_epoch": 2, "print_freq": 2},
}


def small(root, save_dir, **changes):
    made = {name: dict(SMALL.get(name, {})) for name in sections()}
    made["data"]["root"], made["train"]["save_dir"] = str(root), str(save_dir)
    for name, section in changes.items():
        made[name].update(section)
    return made


@pytest.fixture(scope="module")
def once(thin_resnets, tmp_path_factory):
    root = tmp_path_factory.mktemp("once")
    write_tiny_veri(root / "veri776")
    settings = small(
        root, root / "run", data={"validation_identities": 2, "batch_size_train": 4}, train={"eval_freq": 1}
    )
    return root / "run", train(settings, command=["train.py"])


@pytest.fixture
def trained(once, tmp_path):
    """A trained run that a test may spoil."""
    return shutil.copytree(once[0], tmp_path / "run"), once[1]


def test_a_run_leaves_everything_needed_to_use_and_repeat_it(once):
    folder, result = once
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["step"] == 8 and set(result["metrics"]) == {"validation", "veri776"}
    assert 0 < result["metrics"]["veri776"]["mAP"] <= 1
    assert not result["best_chosen_on_test_identities"]
    written = config.load(folder / "config.yaml", [], sections())
    assert written["data"]["height"] == 32, "as it was given"
    assert (written["optim"]["lr"], written["data"]["width"], written["train"]["seed"]) == (0.0003, 32, 0), "defaults"
    assert written["model"].items() > SMALL["model"].items() and written["model"]["attention"] == "channel-spatial"
    assert (folder / "command.txt").read_text() == "train.py\n"
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["train", "train", "validation", "veri776"] * 2
    [events] = folder.glob("events.out.tfevents.*")
    shown = EventAccumulator(str(events)).Reload().Tags()
    assert {"veri776/ranking", "veri776/attention"} <= set(shown["images"])
    assert {"train/loss", "train/lr", "veri776/mAP", "validation/mAP"} <= set(shown["scalars"])
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        f"veri776-epoch-00{epoch}-{kind}.png" for epoch in (1, 2) for kind in ("attention", "ranking")
    ]
    assert [path.name for path in checkpoint.all_steps(folder / "checkpoints")] == [
        "step-0000000004.pt",
        "step-0000000008.pt",
    ]
    assert (folder / "best.safetensors").is_file()


def test_checkpoints_load_again_also_with_torchreid(once):
    folder, _ = once
    path, _ = checkpoint.newest(folder / "checkpoints")
    state = torch.load(path, weights_only=True)
    model = build_model(2, name="dfrst_resnet18", pretrained=False, parts=2)
    optimizer = build_optimizer(model)
    assert torchreid.utils.resume_from_checkpoint(str(path), model, optimizer) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["state_dict"][name])
    # and the exported weights are the same, with what is needed to build the network beside them
    about = json.loads((folder / "weights.json").read_text())
    again = build_model(about["num_classes"], **about["model"])
    checkpoint.set_weights(again, read_weights(folder / "weights.safetensors"), "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_choices_are_made_on_identities_that_were_not_trained_on(once, tiny_veri):
    folder, _ = once
    about = json.loads((folder / "weights.json").read_text())
    assert len(about["held_out"]) == 2
    made, _ = extract(folder / "weights.safetensors", str(tiny_veri), "veri776", train=True, workers=0)
    assert made.source["train_features"] == "held out"
    names = made.train_features.sightings.path.tolist()
    assert {Path(name).name for name in names} >= set(about["held_out"])
    assert len(np.unique(made.train_features.sightings.identity)) == 2 < len(np.unique(made.train.identity))
    whole = np.isin(made.train.identity, made.train_features.sightings.identity)
    assert sorted(names) == sorted(made.train.path[whole].tolist()), "all their images"
    _, state = checkpoint.newest(folder / "checkpoints")
    assert state["describe"]["held_out"] == about["held_out"]


def test_features_are_of_images_normalised_as_in_training(trained, tiny_veri):
    folder, _ = trained
    weights = folder / "weights.safetensors"
    usual, _ = extract(weights, str(tiny_veri), "veri776", workers=0)
    about = json.loads((folder / "weights.json").read_text())
    own = {"norm_mean": [0.5, 0.4, 0.3], "norm_std": [0.1, 0.05, 0.2]}
    about["config"]["data"].update(own)
    checkpoint.export(weights, open_network(weights)[0], about)
    made, _ = extract(weights, str(tiny_veri), "veri776", workers=0)
    as_trained = DataManager(root=str(tiny_veri), **SMALL["data"], **own)
    model, about = open_network(weights)
    expected = embed(model, as_trained.test_loader["veri776"]["query"])
    np.testing.assert_allclose(made.query.embedding, expected.embedding, rtol=1e-4, atol=1e-5)
    assert np.abs(made.query.embedding - usual.query.embedding).max() > 0.01, "it makes a difference"
    image = Image.open(made.query.sightings.path[0]).convert("RGB")
    assert torch.equal(input_transform(about)(image), as_trained.transform_te(image))


def test_a_finished_run_is_not_overwritten_and_can_be_extended(tiny_veri, trained):
    folder, _ = trained
    data = {"validation_identities": 2, "batch_size_train": 4}
    before = [(folder / name).read_bytes() for name in ("config.yaml", "command.txt", "result.json")]
    with pytest.raises(ValueError, match="earlier run: go on with it"):
        train(small(tiny_veri, folder, data=data, optim={"lr": 0.5}))
    other = {**data, "validation_identities": 0}
    with pytest.raises(ValueError, match="other data, batch size or seed"):
        train(small(tiny_veri, folder, data=other, train={"resume": "auto"}))
    assert [(folder / name).read_bytes() for name in ("config.yaml", "command.txt", "result.json")] == before
    longer = train(small(tiny_veri, folder, data=data, train={"max_epoch": 3, "resume": "auto", "pictures": False}))
    assert (longer["epoch"], longer["step"]) == (3, 12)
    assert config.load(folder / "config.yaml", [], sections())["train"]["max_epoch"] == 3


def test_a_finished_run_is_left_as_it_is_and_says_its_result(tiny_veri, trained, caplog):
    folder, result = trained
    data = {"validation_identities": 2, "batch_size_train": 4}
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    caplog.set_level("INFO")
    assert train(small(tiny_veri, folder, data=data, train={"resume": "auto"}), command=["again"]) == result
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert f"{folder} is finished (epoch 2, step 8): nothing is trained, evaluated or written again" in caplog.text
    assert f"veri776 after epoch 2: mAP {result['metrics']['veri776']['mAP']:.1%}, mINP" in caplog.text


@pytest.mark.parametrize("lost", ["weights.safetensors", "result.json", "torn", "of another step"])
def test_a_run_killed_just_before_its_end_is_brought_to_it(lost, tiny_veri, trained):
    folder, result = trained
    if lost == "torn":
        (folder / "result.json").write_text('{"metrics"')
    elif lost == "of another step":
        (folder / "result.json").write_text(json.dumps({**result, "step": 4}))
    else:
        (folder / lost).unlink()
    data = {"validation_identities": 2, "batch_size_train": 4}
    settings = small(tiny_veri, folder, data=data, train={"resume": "auto", "pictures": False})
    again = train(settings, command=["again"])
    assert again["metrics"] == result["metrics"]
    assert (folder / "weights.safetensors").is_file() and json.loads((folder / "result.json").read_text()) == again


@pytest.mark.parametrize("name", ["dfrst_resnet18", "prn_resnet18", "baseline_resnet18", "resnet18"])
def test_a_resolved_configuration_is_a_configuration(name, tiny_veri, tmp_path):
    given = small(tiny_veri, tmp_path)
    given["model"] = {"name": name, "pretrained": False}
    whole = with_defaults(given)
    assert with_defaults(whole) == whole
    assert all(whole[section].items() >= given[section].items() for section in given)
    (tmp_path / "c.yaml").write_text(config.dump(whole))
    read = config.load(tmp_path / "c.yaml", [], sections())
    model = build_model(4, **read["model"])
    again = build_model(4, **given["model"])
    assert str(model) == str(again), "saying the defaults changes nothing"
    assert type(build_optimizer(model, **read["optim"])) is torch.optim.Adam
    DataManager(**read["data"])


def test_the_optimiser_is_torchreids_with_fused_kernels():
    model = torch.nn.Linear(3, 2)
    made = build_optimizer(model, lr=1e-4, weight_decay=5e-4)
    assert type(made) is torch.optim.Adam and made.param_groups[0]["fused"]
    group = made.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 5e-4)
    assert type(build_optimizer(model, optim="radam")).__name__ == "RAdam"


def test_torchreids_own_networks_train_too(tiny_veri, tmp_path):
    settings = small(tiny_veri, tmp_path / "run", train={"max_epoch": 1, "pictures": False})
    settings["model"] = {"name": "osnet_x0_25", "pretrained": False}
    assert train(settings)["step"] == 4


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [("optim", "lrr", "did you mean 'lr'"), ("data", "heigth", "'height'"), ("trian", "seed", "'train'")],
)
def test_a_typo_is_an_error_that_names_it(section, key, message):
    with pytest.raises(KeyError, match=message):
        config.load(None, [f"{section}.{key}", "1"], sections())


@pytest.mark.parametrize(
    "override",
    ["train.max_epoch abc", "optim.lr abc", "data.height abc", "loss.margin abc", "model.parts abc", "rerank.k1 abc",
     "rerank.k1 5.5", "rerank.lambda_value null", "data.transforms 5", "scheduler.stepsize a"],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_an_error_that_names_it(override):
    key, value = override.split()
    with pytest.raises(ValueError, match=rf"{key} is .*, expected "):
        config.load(None, [key, value], sections())


@pytest.mark.parametrize(
    "override",
    ["optim.lr -1", "optim.weight_decay -1", "optim.momentum -1", "optim.adam_beta1 1.0",
     "optim.adam_beta2 1.5", "loss.margin -1", "loss.epsilon 2", "data.height 0", "data.batch_size_train 0",
     "data.batch_size_test 0", "data.num_instances 0", "data.workers -1", "data.validation_identities -1",
     "model.parts 0", "model.part_features 0", "model.reduction 0", "model.kernel_size 2", "model.shared_stages 4",
     "model.last_stride 3", "scheduler.gamma -1", "scheduler.stepsize [-1]", "scheduler.warmup_epoch -1",
     "scheduler.warmup_lr -1", "train.seed -1", "train.threads -1", "train.print_freq 0", "train.save_steps -1",
     "train.fixbase_epoch -1", "train.ranks [0]", "train.max_epoch 0"],
)  # fmt: skip
def test_a_number_out_of_its_range_is_an_error_that_names_it(override, tiny_veri, tmp_path):
    key, value = override.split()
    section, name = key.split(".")
    settings = small(tiny_veri, tmp_path / "run")
    settings[section].update(config.load(None, [key, value], sections())[section])
    with pytest.raises(ValueError, match=rf"^{section}\.{name}( is|: one of them is) "):
        train(settings)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("changes", [{}, {"max_epoch": 0}, {"max_epoch": -1}])
def test_training_for_no_epoch_is_refused(tiny_veri, tmp_path, changes):
    settings = small(tiny_veri, tmp_path / "run")
    settings["train"] = {"save_dir": str(tmp_path / "run"), **changes}
    with pytest.raises(ValueError, match=r"train\.max_epoch is (0|-1): nothing would be trained"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_wrong_names_are_errors(tiny_veri, tmp_path):
    for change, message in [
        ({"model": {"name": "dfrst_resnet81"}}, "dfrst_resnet18"),
        ({"data": {"transforms": "random_flop"}}, "random_flip"),
        ({"train": {"precision": "bf61"}}, "bf16"),
        ({"train": {"best_on": "tests"}}, "test"),
    ]:
        with pytest.raises(KeyError, match=message):
            train(small(tiny_veri, tmp_path / "run", **change))


def test_the_command_line_keeps_torchreids_habits(tiny_veri, tmp_path, monkeypatch, capsys, caplog):
    words = (
        f"train --root {tiny_veri} -s veri776 --transforms random_flip model.name dfrst_resnet18 "
        "model.pretrained false model.parts 2 data.height 32 data.width 32 data.batch_size_train 8 "
        f"data.num_instances 2 data.workers 0 train.max_epoch 1 train.pictures false train.save_dir {tmp_path / 'run'}"
    )
    main(words.split())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["veri776"]["mAP"] > 0
    assert (tmp_path / "run" / "command.txt").read_text().startswith("dfrst train --root")
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'run'}")


def test_torchrun_starts_two_processes_of_which_one_writes(tiny_veri, tmp_path):
    root = Path(__file__).parents[2]
    words = (
        f"-m torch.distributed.run --standalone --nproc-per-node 2 tools/train.py --root {tiny_veri} -s veri776 "
        "model.name osnet_x0_25 model.pretrained false data.height 32 data.width 32 "
        "data.batch_size_train 8 data.num_instances 2 data.workers 0 train.max_epoch 1 train.print_freq 2 "
        f"train.pictures false train.save_dir {tmp_path / 'run'}"
    )
    # a tree that is not installed is found where this test found it
    place = str(Path(checkpoint.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": place}
    done = subprocess.run(
        [sys.executable, *words.split()], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["step"] == 4 and 0 < result["metrics"]["veri776"]["mAP"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 2), ("train", 4), ("veri776", 4)]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_the_configurations_that_readme_names_are_here():
    named = {"demo", "demo_scratch", "dfrst_veri776", "dfrst_resnet18_city_a", "dfrst_resnet50_city_a"}
    assert named <= {path.stem for path in CONFIGS}


def test_weights_of_a_package_are_of_the_backbone_that_a_configuration_names():
    whole = [yaml.safe_load(path.read_text()) for path in (*CONFIGS, *CONFIGS[0].parent.glob("reproduce/*.yaml"))]
    models = [one.get("training", one).get("model", {}) for one in whole]
    named = [model for model in models if "weights" in model]
    assert len(named) == 3
    for model in named:
        package = pretrained.PACKAGES[model["weights"].removeprefix(pretrained.PREFIX)]
        assert model["backbone"] == package.backbone and model["pretrained"] is False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_takes_a_step(path, tiny_veri, tmp_path, monkeypatch):
    # the weights of the large networks, with the optimiser's state, would be a gigabyte to write
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda path, state: saved.append(state["state_dict"]) or path)
    monkeypatch.setattr(checkpoint, "export", lambda path, model, source: path)
    settings = config.load(path, [], sections())
    replaced = {"root": str(tiny_veri), "sources": "veri776", "targets": "veri776", "height": 64, "width": 64}
    settings["data"].update(replaced, workers=0, batch_size_train=16, batch_size_test=16, num_instances=4)
    settings["model"].update(pretrained=False, weights=None)
    settings["train"].update(max_epoch=1, save_dir=str(tmp_path / "run"), pictures=False, threads=1)
    result = train(settings)
    assert result["step"] == 2 and 0 < result["metrics"]["veri776"]["mAP"] <= 1
    assert all(torch.isfinite(value).all() for value in saved[-1].values())


def test_a_stopped_run_ends_with_a_code_of_its_own(monkeypatch, tmp_path, caplog):
    def stopped(*args, **options):
        raise StoppedError("stopped as asked after step 3")

    monkeypatch.setattr("torchreid_dfrst.training.train", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["train", "train.save_dir", str(tmp_path)])
    assert ended.value.code == EXIT_CODE == 75
    assert "stopped as asked after step 3" in caplog.text


@pytest.mark.parametrize("where", ["build_model", "DFRSTEngine.__init__"])
@pytest.mark.parametrize(
    "said", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory"]
)
def test_memory_that_runs_out_before_the_first_step_is_one_message_too(where, said, tiny_veri, tmp_path, monkeypatch):
    def out_of_memory(*args, **options):
        raise RuntimeError(f"{said}\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(f"torchreid_dfrst.training.run.{where}", out_of_memory)
    with pytest.raises(OSError, match=r"memory ran out \(.*memory\): lower data.batch_size_train"):
        train(small(tiny_veri, tmp_path))
