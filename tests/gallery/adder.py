"""A writer that is killed: adds batches for ever, and says on stdout which were acknowledged."""

import sys

import numpy as np

from tests.gallery.crops import SOURCE, crops
from torchreid_dfrst.gallery import Gallery

gallery = Gallery.open(sys.argv[1])
for number in range(int(sys.argv[2]), 10**6):
    # two hours, so that an add is several files
    added = gallery.add(crops(20, seed=number, time_s=np.arange(20) * 360.0, names=f"{number}-"), SOURCE)
    print(number, added, flush=True)
