"""Networks registered with torchreid; ``FACTORIES`` maps the names to the functions that build them."""

from torchreid_dfrst.models.branches import BranchNetwork
from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.models.factories import FACTORIES, build
from torchreid_dfrst.models.weights import load_body, load_imagenet

__all__ = ["DFRST", "FACTORIES", "BranchNetwork", "build", "load_body", "load_imagenet"]
