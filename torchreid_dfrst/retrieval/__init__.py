"""Retrieval on arrays: exact neighbours, k-reciprocal re-ranking, metrics."""

from torchreid_dfrst.retrieval.features import Extraction, Features
from torchreid_dfrst.retrieval.metrics import Metrics, evaluate
from torchreid_dfrst.retrieval.neighbors import Neighbors, distance, neighbors, normalise
from torchreid_dfrst.retrieval.ranking import first
from torchreid_dfrst.retrieval.rerank import rerank

__all__ = [
    "Extraction",
    "Features",
    "Metrics",
    "Neighbors",
    "distance",
    "evaluate",
    "first",
    "neighbors",
    "normalise",
    "rerank",
]
