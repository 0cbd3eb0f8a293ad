"""The engine as a torchreid user meets it."""

import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchreid
from networks import TinyNet
from runs import engine
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchreid_dfrst.messages import duration
from torchreid_dfrst.training.engine import DFRSTEngine
from torchreid_dfrst.training.journal import Journal
from torchreid_dfrst.training.step import StepResult, TrainStep


def test_it_takes_torchreids_data_manager_and_run_keywords(tiny_veri, tmp_path):
    data = torchreid.data.ImageDataManager(
        root=str(tiny_veri), sources="veri776", height=32, width=32, batch_size_train=8, workers=0,
        train_sampler="RandomIdentitySampler", num_instances=2, use_gpu=False,
    )  # fmt: skip
    model = TinyNet(data.num_train_pids)
    optimizer = torchreid.optim.build_optimizer(model, lr=1e-3)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, lr_scheduler="single_step", stepsize=1)
    made = DFRSTEngine(data, model, optimizer, scheduler=scheduler, use_gpu=False)
    made.run(save_dir=str(tmp_path), max_epoch=2, eval_freq=1, print_freq=10)
    assert made.get_current_lr() == pytest.approx(1e-5), "torchreid's schedulers advance once an epoch"
    plain = made.run(test_only=True)["veri776"]
    reranked = made.run(test_only=True, rerank=True)["veri776"]
    assert plain != reranked and set(plain) == {"mAP", "mINP", "rank1", "rank5", "rank10", "rank20"}
    longer = DFRSTEngine(data, model, optimizer, scheduler=None, use_gpu=False)
    longer.run(save_dir=str(tmp_path), max_epoch=3, resume="auto", pictures=False)
    assert longer.epoch == 3
    with pytest.raises(ValueError, match="rerank is for test_only"):
        longer.run(save_dir=str(tmp_path), max_epoch=4, rerank=True)


def test_the_score_is_torchreids_on_normalised_features(tiny_veri):
    made = engine(tiny_veri, network=TinyNet)
    found = made.test()["veri776"]
    stock = torchreid.engine.ImageTripletEngine(
        made.datamanager, made.model, made.optimizer, scheduler=made.scheduler, use_gpu=False
    )
    made.model.eval()
    loaders = made.test_loader["veri776"]
    rank1, mean = stock._evaluate("veri776", loaders["query"], loaders["gallery"], normalize_feature=True)
    assert (found["rank1"], found["mAP"]) == pytest.approx((rank1, mean), abs=1e-6)


def test_re_ranking_gives_torchreids_score(tiny_veri):
    made = engine(tiny_veri, network=TinyNet)
    found, plain = made.run(test_only=True, rerank=True)["veri776"], made.test()["veri776"]
    stock = torchreid.engine.ImageTripletEngine(made.datamanager, made.model, made.optimizer, use_gpu=False)
    made.model.eval()
    loaders = made.test_loader["veri776"]
    rank1, mean = stock._evaluate("veri776", loaders["query"], loaders["gallery"], normalize_feature=True, rerank=True)
    assert (found["rank1"], found["mAP"]) == pytest.approx((rank1, mean), abs=1e-6)
    assert abs(mean - plain["mAP"]) > 1e-3, "re-ranking that changes nothing would prove nothing"


@pytest.mark.parametrize(("metric", "normalised"), [("cosine", False), ("euclidean", False), ("cosine", True)])
def test_torchreids_metrics_give_torchreids_score(metric, normalised, tiny_veri):
    made = engine(tiny_veri, network=TinyNet)
    chosen = {"dist_metric": metric, "normalize_feature": normalised}
    found = made.run(test_only=True, **chosen)["veri776"]
    stock = torchreid.engine.ImageTripletEngine(made.datamanager, made.model, made.optimizer, use_gpu=False)
    made.model.eval()
    loaders = made.test_loader["veri776"]
    expected = stock._evaluate("veri776", loaders["query"], loaders["gallery"], **chosen)
    assert 0 < expected[1] < 1
    assert (found["rank1"], found["mAP"]) == pytest.approx(expected, abs=1e-6)


def test_visrank_writes_torchreids_pictures(tiny_veri, tmp_path):
    made = engine(tiny_veri, network=TinyNet)
    made.run(str(tmp_path), test_only=True, visrank=True, visrank_topk=3)
    queries = made.datamanager.test_sets["veri776"].query
    drawn = {path.stem for path in (tmp_path / "visrank_veri776").glob("*.jpg")}
    assert len(drawn) > 1 and drawn == {Path(path).stem for path, *_ in queries}


def test_the_first_epochs_may_train_some_layers_alone(tiny_veri, tmp_path):
    made = engine(tiny_veri, network=TinyNet)
    seen = []

    def remember():
        seen.append({name: value.clone() for name, value in made.model.state_dict().items()})

    remember()
    made.run(str(tmp_path / "a"), max_epoch=1, fixbase_epoch=1, open_layers=["classifiers", "necks"], pictures=False)
    remember()
    moved = {name.split(".")[0] for name in seen[0] if not torch.equal(seen[0][name], seen[1][name])}
    assert moved == {"classifiers", "necks"}, "batch norms of frozen layers stand still as well"
    made.run(
        str(tmp_path / "a"), max_epoch=2, fixbase_epoch=1, open_layers="classifiers", resume="auto", pictures=False
    )
    remember()
    moved = {name.split(".")[0] for name in seen[0] if not torch.equal(seen[1][name], seen[2][name])}
    assert moved == {"body", "reduce", "classifiers", "necks"}
    with pytest.raises(ValueError, match=r"name the layers to train in these epochs, among body, reduce, necks"):
        made.run(str(tmp_path / "b"), max_epoch=1, fixbase_epoch=1, open_layers="classifier")
    with pytest.raises(ValueError, match="name the layers"):
        made.run(str(tmp_path / "b"), max_epoch=1, fixbase_epoch=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_metric_cuhk03": True}, "take torchreid's ImageTripletEngine"),
        ({"use_metric_cuhk03": True, "test_only": True}, "take torchreid's ImageTripletEngine"),
        ({"visrank": True}, "visrank is for test_only"),
        ({"dist_metric": "cosin"}, "did you mean 'cosine'"),
        ({"test_only": True, "rerank": True, "dist_metric": "cosine"}, "leave both at their defaults"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(options, message, tiny_veri, tmp_path):
    with pytest.raises((ValueError, KeyError), match=message):
        engine(tiny_veri, network=TinyNet).run(str(tmp_path / "run"), max_epoch=1, **options)
    assert not (tmp_path / "run").exists()


def test_time_left_in_words():
    assert [duration(seconds) for seconds in (5, 100, 3599.6, 7505)] == [
        "0 min 05 s", "1 min 40 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(precision, tiny_veri, tmp_path):
    made = engine(tiny_veri, network=TinyNet)
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    made.run(save_dir=str(tmp_path), max_epoch=2, precision=precision, print_freq=4, pictures=False)
    assert not any(torch.equal(value, before[name]) for name, value in made.model.named_parameters())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert all(np.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
    assert {value.dtype for value in made.model.parameters()} == {torch.float32}


def test_a_compiled_run_trains_to_the_same_weights_under_the_same_names(tiny_veri, tmp_path, monkeypatch):
    # the compiler of C++ is left out: what matters here is what the engine does around a compiled model
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    weights = []
    for compiled in (False, True):
        made = engine(tiny_veri, network=TinyNet)
        made.run(save_dir=str(tmp_path / str(compiled)), max_epoch=1, compile=compiled, pictures=False)
        assert (made.step.run is made.model) is not compiled
        weights.append(load_file(tmp_path / str(compiled) / "weights.safetensors"))
    assert list(weights[0]) == list(weights[1])
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-6)


class LikeAGpu(str):
    """A device on which reading a number would wait, as far as the engine can tell."""

    type = "cuda"


class Watched(torch.Tensor):
    """The numbers of a step."""


def test_numbers_are_read_from_the_device_only_for_the_progress_line(tiny_veri, tmp_path, monkeypatch):
    made = engine(tiny_veri, network=TinyNet)
    made.device = LikeAGpu("cpu")
    reads, inside = [], []

    def watch(name):
        read = getattr(torch.Tensor, name)

        def watched(self, *args, **options):
            # the loss looks at labels too where they are on a CPU
            if (inside and self.dtype != torch.int64) or isinstance(self, Watched):
                reads.append((made.epoch, made.batch))
            return read(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
        watch(name)
    step = TrainStep.__call__

    def watched_step(self, *args):
        inside.append(True)
        result = step(self, *args)
        inside.clear()
        return StepResult(*(value.as_subclass(Watched) for value in result))

    monkeypatch.setattr(TrainStep, "__call__", watched_step)
    made.run(save_dir=str(tmp_path), max_epoch=2, print_freq=3, pictures=False)
    assert list(dict.fromkeys(reads)) == [(0, 3), (0, 4), (1, 3), (1, 4)]


def test_what_is_journalled_is_json_and_lasts_over_a_resume(tiny_veri, tmp_path):
    def strict(word):
        raise AssertionError(f"{word} is not JSON")

    for epochs in (1, 2):
        made = engine(tiny_veri, network=TinyNet)
        made.run(save_dir=str(tmp_path), max_epoch=epochs, print_freq=3, pictures=False, resume="auto")
        time.sleep(1)  # TensorBoard reads files of one second in any order
    journal = Journal(tmp_path, made.global_step)
    journal.write("train", 9, {"loss": float("inf"), "gradient_norm": float("nan"), "lr": 0.1})
    journal.close()
    lines = [json.loads(line, parse_constant=strict) for line in (tmp_path / "metrics.jsonl").open()]
    assert (lines[-1]["loss"], lines[-1]["gradient_norm"], lines[-1]["lr"]) == (None, None, 0.1)
    trained = [line for line in lines if line["kind"] == "train"]
    assert [(line["step"], line.get("steps")) for line in trained] == [(3, 3), (4, 1), (7, 3), (8, 1), (9, None)]
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [event.step for event in shown] == [3, 4, 7, 8, 9]


def test_best_is_kept_on_validation_or_when_asked_on_test(tiny_veri, tmp_path, caplog):
    caplog.set_level("INFO")
    made = engine(tiny_veri, network=TinyNet, validation_identities=2, batch_size_train=4)
    made.run(save_dir=str(tmp_path / "a"), max_epoch=2, eval_freq=1, pictures=False)
    assert "last epoch will be the result" not in caplog.text
    assert made.best["chosen_on"] == "validation" and (tmp_path / "a" / "best.safetensors").is_file()
    made = engine(tiny_veri, network=TinyNet)
    made.run(save_dir=str(tmp_path / "b"), max_epoch=2, eval_freq=1, pictures=False)
    assert caplog.text.count("last epoch will be the result") == 1 and "data.validation_identities" in caplog.text
    assert made.best == {} and not (tmp_path / "b" / "best.safetensors").exists()
    made = engine(tiny_veri, network=TinyNet)
    made.run(save_dir=str(tmp_path / "c"), max_epoch=2, eval_freq=1, pictures=False, best_on="test")
    assert caplog.text.count("last epoch will be the result") == 1
    assert made.best["chosen_on"] == "veri776"


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [("print_freq", 0, "1 or more"), ("save_freq", 0, "1 or more"), ("save_steps", -1, "0 or more"),
     ("keep_freq", -1, "0 or more")],
)  # fmt: skip
def test_an_unusable_frequency_is_refused_before_anything_is_written(setting, value, expected, tiny_veri, tmp_path):
    with pytest.raises(ValueError, match=rf"train\.{setting} is {value}: {expected}"):
        engine(tiny_veri, network=TinyNet).run(save_dir=str(tmp_path / "run"), max_epoch=1, **{setting: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_cpu_that_is_to_imitate_fp16_says_that_it_is_slow(precision, tiny_veri, tmp_path, caplog):
    engine(tiny_veri, network=TinyNet).run(save_dir=str(tmp_path), max_epoch=1, precision=precision, pictures=False)
    assert ("many times slower than fp32" in caplog.text) is (precision == "fp16")
