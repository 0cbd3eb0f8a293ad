"""The choices of a k-reciprocal re-ranking."""

from __future__ import annotations

from dataclasses import dataclass

from torchreid_dfrst.checks import check

POWER = {"torchreid": 4, "transreid": 2}
"""Exponent of the Euclidean distance in the original distance of each definition."""


@dataclass(frozen=True)
class Parameters:
    """The choices of ``rerank.rerank``, which documents them.

    Raises:
        ValueError: k1, k2 or lambda_value is not a number or out of range, or definition is not text.
        KeyError: an unknown definition or ``on``.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    definition: str = "torchreid"
    on: str = "fused"

    def __post_init__(self) -> None:
        """Refuse what re-ranking cannot mean."""
        for name, value in (("k1", self.k1), ("k2", self.k2)):
            check(name, value, int)
        check("lambda_value", self.lambda_value, float)
        check("definition", self.definition, str)
        if self.definition not in POWER:
            raise KeyError(f"no definition {self.definition!r} of re-ranking: {', '.join(map(repr, POWER))}")
        if self.on not in ("fused", "appearance"):
            raise KeyError(f"re-ranking on {self.on!r}: 'fused' or 'appearance'")
        if not 1 <= self.k2 <= self.k1:
            raise ValueError(f"k2 is {self.k2} with k1 {self.k1}: between 1 (no query expansion) and k1")
        if not 0 <= self.lambda_value <= 1:
            raise ValueError(
                f"lambda_value is {self.lambda_value}: between 0 (Jaccard alone) and 1 (original distance alone)"
            )

    def fit(self, images: int) -> None:
        """Refuse a k1 that so few images do not have."""
        if not 1 <= self.k1 < images:
            raise ValueError(f"k1 is {self.k1} with {images} images: between 1 and {images - 1}")

    @property
    def half(self) -> int:
        """Length of the neighbours' own lists; a half rounds to the even number, as in the reference."""
        return round(self.k1 / 2) + 1
