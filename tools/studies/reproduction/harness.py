"""Trains a network once, extracts its features once, scores them once: everything else reads the files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tools.studies.contamination.damage import MIXED, Contamination
from tools.studies.reproduction.preset import Preset, merge
from torchreid_dfrst import evaluation
from torchreid_dfrst.checks import listed
from torchreid_dfrst.city import make_city
from torchreid_dfrst.config import Config, checked
from torchreid_dfrst.data.manager import share_options
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.inference import extract, open_dataset, open_network
from torchreid_dfrst.retrieval import Extraction
from torchreid_dfrst.sightings import UNKNOWN, fingerprint
from torchreid_dfrst.training import sections, train, with_defaults

logger = logging.getLogger(__name__)

# settings that change how long a run takes or what it leaves behind, but not its weights
FREE = {
    "data": ("root", "targets", "workers", "cache", "batch_size_test"),
    "train": ("save_dir", "print_freq", "start_eval", "eval_freq", "save_freq", "save_steps", "keep_freq", "resume",
              "pictures", "ranks"),
}  # fmt: skip


class Harness:
    """All networks of the tables in one folder, each in a folder named after its configuration.

    A run is found again by a hash of its configuration, defaults included, of the training data's lists and of the run
    its backbone comes from; features and cards by what was extracted and scored, test lists included. Neither pixels
    nor the version of this package are in any of them. An interrupted run is resumed. Two processes may share the
    folder: the second waits where the first trains.

    Args:
        preset: what all rows share.
        root: folder of the data sets; None if the preset draws its own.
        out: folder of runs, features and cards.
        bar: progress bar, such as ``tqdm.tqdm``.
        command: the command line, for cards and runs.

    Raises:
        ValueError: neither ``root`` nor a preset that draws its data, or a process of ``torchrun``.
    """

    def __init__(
        self,
        preset: Preset,
        root: str | Path | None,
        out: str | Path,
        bar: Callable[..., Any] | None = None,
        command: str = "",
    ) -> None:
        self.preset, self.out, self.bar, self.command = preset, Path(out), bar, command
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: the tables are made by single processes. Start one per "
                "GPU, on other tables or seeds, with CUDA_VISIBLE_DEVICES; they share the folder"
            )
        if root is None and preset.draw is None:
            raise ValueError("this preset reads data that is there already: give its folder with --root")
        self.root = Path(root) if root is not None else self._city("data", preset.draw or {})
        self.sources, targets = (listed(preset.training["data"].get(key)) for key in ("sources", "targets"))
        self.tests = dict(preset.tests) or {"": (targets or self.sources)[0]}
        self._fingerprints: dict[str, tuple[str, str, bool]] = {}

    def train(self, network: str, change: Mapping[str, Any] | None = None, seed: int = 0) -> Path:
        """Folder of a finished run; trains it if there is none.

        Args:
            network: a name registered with torchreid.
            change: sections on top of the preset's.
            seed: of the run.

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; the same call goes on from there.
            KeyError, ValueError, OSError: as ``training.train`` raises them.
        """
        settings = merge(
            self.preset.training,
            {"model": {"name": network}},
            self.preset.networks.get(network, {}),
            change or {},
            {"train": {"seed": seed}},
        )
        self._train_lists(
            self.root, settings["data"]
        )  # a wrong folder is said before a backbone is pre-trained for hours
        settings = merge(settings, {"model": self.start(network)})
        return self._run(f"{network}-seed{seed}", settings, self.root, self._pretrained_backbone(network))

    def start(self, network: str) -> dict[str, Any]:
        """Options of a network that starts from the preset's pre-trained backbone, which is trained if there is none.

        Empty where the preset says how its rows start.
        """
        backbone = self._pretrained_backbone(network)
        return {} if backbone is None else {"weights": str(backbone / "weights.safetensors"), "pretrained": False}

    def features(self, run: Path, name: str, level: float = 0, train: bool = False) -> Extraction:
        """Features that a finished run gives a data set.

        Args:
            run: its folder.
            name: of the data set, with the options of ``training.data``.
            level: percent of damaged pixels.
            train: with those of the training images that it held out, or of all where it held none out.
        """
        stem = f"features-{self.test_lists(name)}" + (f"-{MIXED}{level:g}" if level else "")
        files = [run / f"{stem}{suffix}.npz" for suffix in ("-train", "")]
        for file in files[:1] if train else files:
            if file.is_file():
                with made_anew(file):
                    return Extraction.load(file)
        with made_anew(run):
            open_network(run / "weights.safetensors")
        data = self.preset.training["data"]
        extraction, _ = extract(
            run / "weights.safetensors",
            str(self.root),
            name,
            train=train,
            workers=data.get("workers", 2),
            precision=self.preset.training["train"].get("precision", "fp32"),
            contaminate=Contamination(MIXED, level) if level else None,
            options=_options(data, name).get(name),
            bar=self.bar,
        )
        extraction.save(files[0] if train else files[1])
        return extraction

    def card(self, run: Path, test: str, level: float = 0, scoring: Mapping[str, Any] | None = None) -> Card:
        """Result card of a finished run.

        Args:
            run: its folder.
            test: label of the test set.
            level: percent of damaged pixels.
            scoring: sections ``spacetime``, ``rerank`` and ``evaluate`` on top of the preset's.
        """
        choices = merge(self.preset.scoring, scoring or {})
        path = run / f"card-{digest([self.test_lists(self.tests[test]), level, choices])}.json"
        if path.is_file():
            return load_card(path)
        extraction = self.features(run, self.tests[test], level)
        card = evaluation.card(evaluation.score(extraction, **choices), extraction, self.command)
        card.save(path)
        return card

    def test_lists(self, name: str) -> str:
        """A test set's name and what tells its lists from others': who was seen where and when, and distances."""
        return f"{name}-{self._lists(self.root, name, _options(self.preset.training['data'], name).get(name))[1]}"

    def has_tracks(self, test: str) -> bool:
        """Whether every gallery image of a test set is known to belong to a track."""
        name = self.tests[test]
        return self._lists(self.root, name, _options(self.preset.training["data"], name).get(name))[2]

    def _pretrained_backbone(self, network: str) -> Path | None:
        """The run that a network's backbone starts from, None where the preset says how it starts."""
        if self.preset.pretraining is None:
            return None
        root = self._city("pretraining-data", self.preset.pretraining["draw"])
        settings = merge(
            self.preset.pretraining["training"], {"model": {"name": backbone_of(network), "pretrained": False}}
        )
        return self._run(f"pretraining-{backbone_of(network)}", settings, root, None)

    def _run(self, label: str, settings: Config, root: Path, backbone: Path | None) -> Path:
        config = checked(settings, sections(), label)
        whole = with_defaults(config)
        if backbone is not None:
            del whole["model"]["weights"]  # a file of the run that the name has
        key = {name: {k: v for k, v in keys.items() if k not in FREE.get(name, ())} for name, keys in whole.items()}
        data = self._train_lists(root, settings["data"])
        folder = self.out / "runs" / f"{label}-{digest([key, data, backbone and backbone.name])}"
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if (folder / "result.json").is_file():
                return folder
            logger.info("training %s", folder.name)
            for pattern in ("features-*", "card-*", "omega-*"):
                for path in folder.glob(pattern):
                    path.unlink()  # of weights that were there before
            began = time.monotonic()
            own = {"data": {"root": str(root)}, "train": {"save_dir": str(folder), "resume": "auto"}}
            train(merge(config, own), self.bar, [self.command])
            logger.info("trained %s in %.0f s", folder.name, time.monotonic() - began)
        return folder

    def _train_lists(self, root: Path, data: Mapping[str, Any]) -> str:
        options = _options(data)
        return "-".join(self._lists(root, name, options.get(name))[0] for name in listed(data["sources"]))

    def _lists(self, root: Path, name: str, options: Mapping[str, Any] | None) -> tuple[str, str, bool]:
        """Fingerprints of a data set's training list and of all its lists with distances; whether it has tracks."""
        key = digest([str(root), name, options])
        if key not in self._fingerprints:
            dataset, parts = open_dataset(name, root, options)
            whole = fingerprint(list(parts.values()), getattr(dataset, "network", None))
            tracked = bool((parts["gallery"].track != UNKNOWN).all())
            self._fingerprints[key] = fingerprint([parts["train"]]), whole, tracked
        return self._fingerprints[key]

    def _city(self, name: str, settings: Mapping[str, Any]) -> Path:
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            make_city(folder / "city", **settings)
        return folder


def backbone_of(network: str) -> str:
    """Name of the network that is pre-trained for ``network``'s backbone: a plain ResNet wherever that is one."""
    if network.endswith("_resnet18"):
        return "baseline_resnet18"
    return network if network.startswith("osnet") else "baseline"


def _options(data: Mapping[str, Any], *tests: str) -> dict[str, dict[str, Any]]:
    """The options of each data set that a section names, and of test sets beside them."""
    return share_options(data.get("options"), [*listed(data["sources"]), *listed(data.get("targets")), *tests])


def digest(value: Any) -> str:
    """Ten hexadecimal digits that name a value of JSON types."""
    text = json.dumps(value, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def load_card(path: Path) -> Card:
    """A card that lies in a run's folder, with its queries.

    Raises:
        ValueError: it is damaged or its queries are gone; the message says what to do.
    """
    with made_anew(path):
        card = Card.load(path)
        if not card.queries:
            raise ValueError(f"{path} has lost the file of its queries, which the paired tests need")
    return card


@contextmanager
def made_anew(path: Path) -> Iterator[None]:
    """Say, where a file in the folder of runs is damaged or gone, how to get it back.

    Args:
        path: what to remove; the same command then makes it anew.

    Raises:
        ValueError: the block raised it, or ``FileNotFoundError`` or ``KeyError``.
    """
    try:
        yield
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise ValueError(f"{error}. Remove {path} and run the same command again: that makes it anew") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; waits for one that is at work there."""
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is at work on %s: waiting for it", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
