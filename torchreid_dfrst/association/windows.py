"""Large galleries in parts: stretches of time that are joined on their own, on any executor, and then stitched."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from torchreid_dfrst.association.average_linkage import Tree, grow, upper
from torchreid_dfrst.association.evidence import Evidence, at_once
from torchreid_dfrst.association.passes import Passes
from torchreid_dfrst.retrieval import neighbors
from torchreid_dfrst.spatiotemporal.passes import rows_by_label

MOST = 8000
"""Passes whose evidence is held for all pairs at once: 256 MB, and four times that while they are joined."""
CANDIDATES = 20
"""Most alike passes of each, where a stretch has more passes than that."""


def join(
    passes: Passes, evidence: Evidence, window_s: float, executor: Executor | None = None
) -> tuple[np.ndarray, np.ndarray, Tree | None, float]:
    """``(P,)`` int64 trajectory of each pass, numbered by first pass; ``Association``'s height, tree and odds.

    Args:
        passes: of the gallery.
        evidence: fitted.
        window_s: in a gallery of more than ``MOST`` passes, two passes further apart than this are not compared.
        executor: runs the parts; None for one after the other, here.
    """
    odds = evidence.odds(min(len(passes), MOST))
    if len(passes) <= MOST:
        label, height, tree = join_part(passes, evidence, odds)
        return _numbered(label), height, tree, odds
    parts = list(stretches(passes, window_s))
    odds = evidence.odds(int(np.median([len(part) for part in parts])))
    job = functools.partial(join_part, evidence=evidence, odds=odds)
    run = map if executor is None else executor.map
    found = run(job, [passes[part] for part in parts])
    label, height = np.full(len(passes), -1), np.full(len(passes), -np.inf)
    for part, (own, high, _) in zip(parts, found, strict=True):
        height[part] = np.maximum(height[part], high)
        _stitch(label, part, own, passes, evidence)
    return _numbered(label), height, None, odds


def stretches(passes: Passes, window_s: float) -> Iterator[np.ndarray]:
    """Rows of passes that are joined together, in order of time: each two within ``window_s`` share one, at least.

    A silence of more than ``window_s`` ends a stretch. One that is still too long is cut into stretches of three
    windows that share one with the next. Passes without a time are a stretch of their own.
    """
    order = np.argsort(passes.first_s, kind="stable")
    timed = order[~np.isnan(passes.first_s[order])]
    if len(timed) < len(order):
        yield np.sort(order[len(timed) :])
    if not len(timed):
        return
    first, last = passes.first_s[timed], np.maximum.accumulate(passes.last_s[timed])
    for block in _together(np.split(timed, np.flatnonzero(first[1:] - last[:-1] > window_s) + 1)):
        if len(block) <= MOST:
            yield np.sort(block)
            continue
        time = passes.first_s[block]
        for start in np.arange(time[0], time[-1] + 1, 2 * window_s):
            here = (time >= start) & (time < start + 3 * window_s)
            if here.any() and (start == time[0] or time[here].max() >= start + window_s):  # else all came before
                yield np.sort(block[here])


def join_part(passes: Passes, evidence: Evidence, odds: float) -> tuple[np.ndarray, np.ndarray, Tree | None]:
    """Trajectories of a part, as ``join``; of more than ``MOST`` passes in groups that candidates hold together."""
    if len(passes) <= MOST:
        pairs = upper(evidence.block(passes, passes))
        tree = grow(pairs, len(passes))
        label = _apart(tree.cut(-odds), passes, evidence, odds)
        return label, _first_join(tree), tree
    label, height = np.zeros(len(passes), dtype=np.int64), np.empty(len(passes))
    for rows in _groups(passes, evidence, odds):
        own, height[rows], _ = join_part(passes[rows], evidence, odds)
        label[rows] = label.max() + 1 + own
    return label, height, None


def _first_join(tree: Tree) -> np.ndarray:
    """``(P,)`` evidence at which each pass first joins another."""
    out = np.full(tree.size, -np.inf)
    if tree.merges is not None:
        for end in (0, 1):
            leaf = tree.merges[:, end] < tree.size
            out[tree.merges[leaf, end].astype(np.int64)] = tree.top - tree.merges[leaf, 2]
    return out


def _apart(label: np.ndarray, passes: Passes, evidence: Evidence, odds: float) -> np.ndarray:
    """Take apart trajectories that would be at two places at a time."""
    label = label.copy()
    for rows in rows_by_label(label):
        if len(rows) < 2:
            continue
        some = passes[rows]
        never = upper(at_once(some, some, evidence.overlapping))
        if never.any():
            pairs = upper(evidence.block(some, some))
            pairs[never] = -1e9
            label[rows] = label.max() + 1 + grow(pairs, len(rows)).cut(-odds)
    return label


def _groups(passes: Passes, evidence: Evidence, odds: float) -> Iterator[np.ndarray]:
    """Rows held together by pairs that are more likely one vehicle than two, each among the other's most alike.

    Average linkage joins nothing across them. Where a group is too large, pairs must be likelier.
    """
    near = neighbors(passes.embedding, passes.embedding, CANDIDATES + 1)
    row = np.repeat(np.arange(len(passes)), near.index.shape[1])
    column, value = near.index.ravel(), evidence.appearance(1 - near.distance.ravel() ** 2 / 2) + odds
    keep = (value > 0) & (row != column)
    row, column, value = row[keep], column[keep], value[keep]
    least = 0.0
    todo = [np.arange(len(passes))]
    while todo:
        rows = todo.pop()
        if len(rows) <= MOST:
            yield rows
            continue
        place = np.full(len(passes), -1)
        place[rows] = np.arange(len(rows))
        strong = (value > least) & (place[row] >= 0) & (place[column] >= 0)
        ends = place[row[strong]], place[column[strong]]
        links = coo_matrix((np.ones(int(strong.sum())), ends), shape=(len(rows), len(rows)))
        pieces = rows_by_label(connected_components(links, directed=False)[1])
        todo += [rows[piece] for piece in pieces if len(piece) > MOST]
        yield from (rows[some] for some in _together([piece for piece in pieces if len(piece) <= MOST]))
        least += 0.5


def _together(pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces one after the other, as many as are ``MOST // 3`` rows, so that there are not too many parts."""
    heap: list[np.ndarray] = []
    for piece in pieces:
        if heap and sum(map(len, heap)) + len(piece) > MOST // 3:
            yield np.concatenate(heap)
            heap = []
        heap.append(piece)
    if heap:
        yield np.concatenate(heap)


def _stitch(label: np.ndarray, part: np.ndarray, own: np.ndarray, passes: Passes, evidence: Evidence) -> None:
    """Write a part's trajectories into ``label``; one that shares most passes with an earlier one goes on with it."""
    fresh = label[part] < 0
    following = label.max(initial=-1) + 1
    label[part[fresh]] = following + own[fresh]
    before, mine = label[part[~fresh]], own[~fresh]
    if not len(mine):
        return
    cell, shared = np.unique(np.stack([mine, before]), axis=1, return_counts=True)
    goes_on: dict[int, int] = {}
    for one, other in cell[:, np.argsort(-shared, kind="stable")].T.tolist():
        if one in goes_on or other in goes_on.values():
            continue
        goes_on[one] = other
        new, old = part[fresh & (own == one)], np.flatnonzero(label == other)
        if len(new) and not at_once(passes[new], passes[old], evidence.overlapping).any():
            label[new] = other


def _numbered(label: np.ndarray) -> np.ndarray:
    """The same labels, numbered in the order in which they first occur."""
    _, first, place = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]
