import numpy as np
import pytest

from tests.retrieval.scenes import clusters, unit
from torchreid_dfrst.retrieval import expand, neighbors


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_query_expansion_is_the_weighted_mean(alpha):
    x, _ = clusters(40, seed=5)
    q, g = x[:6], x[6:]
    near = neighbors(q, g, 5)
    expected = []
    for i in range(len(q)):
        weights = [max(float(q[i] @ g[j]), 0) ** alpha for j in near.index[i, :4]]
        expected.append(q[i] + sum(w * g[j] for w, j in zip(weights, near.index[i, :4], strict=True)))
    np.testing.assert_allclose(expand(q, g, near, 4, alpha), unit(np.array(expected)), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6,), "6 of 5 neighbours"),
        ((2.0,), r"count is 2.0, expected a whole number"),
        ((True,), "count is True, expected a whole number"),
        ((2, -1), "alpha is -1"),
        ((2, "a"), "alpha is 'a', expected a number"),
        ((2, float("inf")), "alpha is inf"),
    ],
)
def test_bad_input_is_named(arguments, message):
    x, _ = clusters(40, seed=5)
    with pytest.raises(ValueError, match=message):
        expand(x[:6], x[6:], neighbors(x[:6], x[6:], 5), *arguments)
