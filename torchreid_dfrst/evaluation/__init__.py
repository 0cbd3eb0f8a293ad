"""From features to a result card: rows of distances, weights, protocols, intervals, comparisons and audits.

``score(extraction, spacetime, rerank, evaluate)`` ranks by appearance, + space and time, + re-ranking, + both;
``card(result, extraction, command)`` keeps every number and every choice.
"""

from torchreid_dfrst.evaluation.calibration import fit as calibrate
from torchreid_dfrst.evaluation.card import Result
from torchreid_dfrst.evaluation.card import make_card as card
from torchreid_dfrst.evaluation.openset import of_result as open_set
from torchreid_dfrst.evaluation.scoring import (
    APPEARANCE,
    BOTH,
    FUSED,
    RERANKED,
    ROWS,
    TOP,
    fit_transit,
    rankings,
    score,
    sections,
)
from torchreid_dfrst.evaluation.weight import HELD_OUT, PAPER_WEIGHT, TRAINED_ON, transit_weight

__all__ = [
    "APPEARANCE",
    "BOTH",
    "FUSED",
    "HELD_OUT",
    "PAPER_WEIGHT",
    "RERANKED",
    "ROWS",
    "TOP",
    "TRAINED_ON",
    "Result",
    "calibrate",
    "card",
    "fit_transit",
    "open_set",
    "rankings",
    "score",
    "sections",
    "transit_weight",
]
