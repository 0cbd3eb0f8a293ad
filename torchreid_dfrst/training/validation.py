"""The half of the engine that evaluates, and the pictures it draws."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchreid
from torch import nn

from torchreid_dfrst.data.boxes import split_name
from torchreid_dfrst.processes import current, raise_together
from torchreid_dfrst.report.attention import attention_maps, reasons
from torchreid_dfrst.report.canvas import spread
from torchreid_dfrst.report.ranked_lists import ranked_lists
from torchreid_dfrst.retrieval import Parameters, Reranking, distance_blocks, normalise
from torchreid_dfrst.retrieval import evaluate as metrics_of
from torchreid_dfrst.retrieval.metrics import Best, NothingToScoreError
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.training.configuration import VALIDATION, RunOptions
from torchreid_dfrst.training.embed_images import Embedded, embed
from torchreid_dfrst.training.interrupt import StopRequest
from torchreid_dfrst.training.memory import explained

logger = logging.getLogger(__name__)

Scored = Callable[[str, Mapping[str, float], Embedded, Embedded], None]
"""Told of each data set that was scored: name, metrics, query, gallery."""
ROWS = 1024
"""Queries in a block of distances."""


class EvaluatingEngine(torchreid.engine.Engine):
    """torchreid's engine as far as it evaluates: by appearance, with the junk rule, shared by the processes of a group.

    Unlike torchreid's, embeddings are L2-normalised by default, and Euclidean distances are not squared, which changes
    no ranking. Arguments as of ``DFRSTEngine``.
    """

    def __init__(self, datamanager: Any, model: nn.Module, use_gpu: bool = True) -> None:
        super().__init__(datamanager, use_gpu)
        self.group = current()
        self.device = torch.device(f"cuda:{self.group.local_rank}" if self.use_gpu else "cpu")
        shared = getattr(datamanager, "world_size", 1)
        if shared != self.group.world_size:
            raise ValueError(
                f"{type(datamanager).__name__} makes batches for {shared} process(es) and there are "
                f"{self.group.world_size}, of which each would train on and count the same images: use "
                "torchreid_dfrst.data.manager.DataManager with this rank and world_size"
            )
        self.model = model.to(self.device)
        self.options, self.stop = RunOptions(), StopRequest()
        self.bar: Callable[..., Any] | None = None

    def test(self, **options: Any) -> dict[str, dict[str, float]]:
        """Evaluate on held-out training identities, if there are any, and on every target.

        ``options`` are torchreid's and others of ``RunOptions``; precision and layout stay the last run's.

        Returns:
            Data set to ``mAP``, ``mINP``, ``rank1``, ... in [0, 1]; one with nothing to score is left out and logged.
        """
        last = {"precision": self.options.precision, "channels_last": self.options.channels_last}
        self.options = RunOptions(test_only=True, **{**last, **options})
        return self._test()

    @explained()
    def _test(self) -> dict[str, dict[str, float]]:
        return self.evaluate(self._show_rankings if self.options.visrank else None)

    def evaluate(self, scored: Scored | None = None) -> dict[str, dict[str, float]]:
        """Score every set as ``options`` say; process 0 logs the metrics and hands them to ``scored``."""
        held_out = getattr(self.datamanager, VALIDATION, None)
        metrics = {}
        for name, loaders in {**({VALIDATION: held_out} if held_out else {}), **self.test_loader}.items():
            query, gallery = self.embed(loaders["query"]), self.embed(loaders["gallery"])
            blocks = distances(query.embedding, gallery.embedding, self.options)
            try:
                found = metrics_of(blocks, query.identity, gallery.identity, query.camera, gallery.camera)
            except NothingToScoreError as error:
                logger.warning("%s is not scored: %s", name, error)
                continue
            ranks = {f"rank{rank}": found.rank(rank) for rank in self.options.ranks}
            metrics[name] = {"mAP": found.mAP, "mINP": found.mINP, **ranks}
            if self.group.main:
                logger.info("%s after epoch %d: %s", name, self.epoch, words(metrics[name]))
                if scored is not None:
                    scored(name, metrics[name], query, gallery)
        return metrics

    def embed(self, loader: Any) -> Embedded:
        """Embeddings of a test loader's images, with this run's precision; see ``embed_images.embed``."""
        options, bar = self.options, self.bar if self.group.main else None
        return embed(
            self.model, loader, self.device, options.precision, options.channels_last, bar, self.stop.check, self.agree
        )

    def agree(self, failure: Exception | None) -> None:
        """Called by all processes at once, each with what happened to it: returns if all can go on."""
        raise_together(failure)

    def _show_rankings(self, name: str, values: Mapping[str, float], query: Embedded, gallery: Embedded) -> None:
        """Torchreid's ``visrank``: one picture per query, with its best gallery images."""
        if any(split_name(path)[1] for path in query.path):
            raise ValueError(
                f"visrank draws whole files, and the images of {name} are boxes: dfrst evaluate draws them"
            )
        folder = Path(self.options.save_dir) / f"visrank_{name}"
        size = {"width": self.datamanager.width, "height": self.datamanager.height}
        queries, images = (list(zip(part.path, part.identity, part.camera, strict=True)) for part in (query, gallery))
        done = 0
        # torchreid sorts every row whole, so they are made again, block by block
        for block in distances(query.embedding, gallery.embedding, self.options):
            some = queries[done : done + len(block)], images
            done += len(block)
            with contextlib.redirect_stdout(io.StringIO()):
                torchreid.utils.visualize_ranked_results(
                    block, some, "image", save_dir=str(folder), topk=self.options.visrank_topk, **size
                )
        logger.info("ranked lists of %d queries are in %s", len(query.path), folder)


def words(values: Mapping[str, float]) -> str:
    """Metrics as a person reads them."""
    return ", ".join(f"{key} {value:.1%}" for key, value in values.items())


def distances(query: np.ndarray, gallery: np.ndarray, options: RunOptions) -> Iterator[np.ndarray]:
    """Distances of embeddings ``(Q, D)`` to ``(G, D)`` as ``options`` say, in blocks ``(rows, G)`` of queries."""
    cosine = options.dist_metric == "cosine"
    if cosine or options.normalize_feature:
        query, gallery = normalise(query), normalise(gallery)
    if options.normalize_feature and not cosine:
        return Reranking(query, gallery, Parameters()).blocks() if options.rerank else distance_blocks(query, gallery)
    parts = (torch.from_numpy(query[start : start + ROWS]) for start in range(0, len(query), ROWS))
    others = torch.from_numpy(gallery)
    return ((1 - part @ others.T if cosine else torch.cdist(part, others)).numpy() for part in parts)


def draw(
    save_dir: Path, name: str, epoch: int, query: Embedded, gallery: Embedded, options: RunOptions, model: nn.Module,
    transform: Any,
) -> dict[str, Path]:  # fmt: skip
    """Ranked lists and attention maps of a few queries of data set ``name``, in ``save_dir/pictures``."""
    label = str(save_dir / "pictures" / f"{name}-epoch-{epoch:03d}")
    queries, everyone = (Sightings(camera=p.camera, identity=p.identity, path=p.path) for p in (query, gallery))
    shown = spread(len(query.path), 5)
    best = Best(queries[shown], everyone, 8)
    for block in distances(query.embedding[shown], gallery.embedding, options):
        best.note(block)
    title = f"{name} after epoch {epoch}, by appearance"
    drawn = {"ranking": ranked_lists(f"{label}-ranking.png", best.query, everyone, best.index, title)}
    pairs = [(query, row, gallery, match) for row, match in zip(shown, best.match, strict=True) if match >= 0][:2]
    ends = [end for asked, row, held, match in pairs for end in ((asked, row), (held, match))]
    paths = [part.path[row] for part, row in ends]
    maps = reasons(model, paths, transform) if paths else None
    if maps is not None:
        labels = [f"vehicle {part.identity[row]}\ncam {part.camera[row]}" for part, row in ends]
        drawn["attention"] = attention_maps(f"{label}-attention.png", paths, maps, labels)
    return drawn
