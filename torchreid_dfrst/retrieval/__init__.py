"""Retrieval on arrays: exact neighbours, k-reciprocal re-ranking, metrics."""

from torchreid_dfrst.features import Extraction, Features
from torchreid_dfrst.retrieval.distances import distance, distance_blocks
from torchreid_dfrst.retrieval.embeddings import normalise
from torchreid_dfrst.retrieval.expansion import expand
from torchreid_dfrst.retrieval.jaccard import jaccard_blocks, jaccard_distance
from torchreid_dfrst.retrieval.metrics import Metrics, evaluate, evaluate_lists, first
from torchreid_dfrst.retrieval.rerank import Parameters, Reranking, rerank, rerank_distances
from torchreid_dfrst.retrieval.search import Neighbors, neighbors

__all__ = [
    "Extraction",
    "Features",
    "Metrics",
    "Neighbors",
    "Parameters",
    "Reranking",
    "distance",
    "distance_blocks",
    "evaluate",
    "evaluate_lists",
    "expand",
    "first",
    "jaccard_blocks",
    "jaccard_distance",
    "neighbors",
    "normalise",
    "rerank",
    "rerank_distances",
]
