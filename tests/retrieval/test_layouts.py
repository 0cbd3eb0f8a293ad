"""Every entry takes arrays of any layout and gives what it gives for a plain copy; an empty side is named."""

import numpy as np
import pytest

from tests.retrieval.scenes import clusters
from torchreid_dfrst.retrieval import (
    Parameters,
    Reranking,
    distance,
    expand,
    first,
    jaccard_distance,
    neighbors,
    rerank,
)

LAYOUTS = {
    "Fortran": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "turned round": lambda x: x[::-1].copy()[::-1],
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "other byte order": lambda x: x.astype(">f4"),
}

JOBS = {
    "neighbors": lambda q, g: neighbors(q, g, 5).index,
    "distance": lambda q, g: distance(q, g),
    "rerank": lambda q, g: rerank(q, g, k1=7, k2=3),
    "top": lambda q, g: Reranking(q, g, Parameters(7, 3)).top(5).distance,
    "jaccard": lambda q, g: jaccard_distance(g, k1=7, k2=3),
    "expand": lambda q, g: expand(q, g, neighbors(q, g, 5), 3),
    "first": lambda q, g: first(g, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("job", JOBS)
def test_the_layout_of_embeddings_changes_nothing(job, layout):
    x, _ = clusters(60)
    expected = JOBS[job](x[:20], x[20:])
    query, gallery = LAYOUTS[layout](x[:20]), LAYOUTS[layout](x[20:])
    assert not query.flags.c_contiguous or not query.flags.writeable or query.dtype != np.float32
    np.testing.assert_array_equal(JOBS[job](query, gallery), expected)
    np.testing.assert_array_equal(gallery, x[20:])


@pytest.mark.parametrize("job", ["neighbors", "distance", "rerank", "top"])
def test_an_empty_side_is_named(job):
    x, _ = clusters(30)
    with pytest.raises(ValueError, match=r"(gallery|columns) has shape \(0, 16\).*: there is no image"):
        JOBS[job](x, x[:0])
    with pytest.raises(ValueError, match=r"(query|rows) has shape \(0, 16\).*: there is no image"):
        JOBS[job](x[:0], x)
