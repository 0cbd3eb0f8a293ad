"""Networks registered with torchreid; ``FACTORIES`` maps the names to the functions that build them."""

from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.models.network import BranchNetwork
from torchreid_dfrst.models.pretrained import own_input
from torchreid_dfrst.models.weights import load_backbone
from torchreid_dfrst.models.zoo import FACTORIES, build, default_options

__all__ = ["DFRST", "FACTORIES", "BranchNetwork", "build", "default_options", "load_backbone", "own_input"]
