"""A trained network from its file, and the features of a data set from the network."""

from torchreid_dfrst.inference.extraction import extract, input_normalisation, input_transform, open_dataset
from torchreid_dfrst.inference.hub import from_pretrained
from torchreid_dfrst.inference.opening import open_network

__all__ = ["extract", "from_pretrained", "input_normalisation", "input_transform", "open_dataset", "open_network"]
