"""Trips: images to passes, passes to trajectories, with labels or without any.

``associate(features, network)`` joins a gallery and learns from it what speaks for one vehicle; ``fit(train, network)``
learns that from labelled sightings instead. ``ranking`` ranks a gallery by its trips.
"""

from torchreid_dfrst.association.associate import Association, associate
from torchreid_dfrst.association.evidence import Evidence
from torchreid_dfrst.association.fitting import fit
from torchreid_dfrst.association.measures import MEASURES, Score
from torchreid_dfrst.association.ranking import ranking
from torchreid_dfrst.association.windows import MOST

__all__ = ["MEASURES", "MOST", "Association", "Evidence", "Score", "associate", "fit", "ranking"]
