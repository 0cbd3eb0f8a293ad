"""Retrieval on arrays: exact neighbours, k-reciprocal re-ranking, metrics."""
