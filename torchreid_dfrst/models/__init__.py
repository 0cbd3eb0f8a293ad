"""Networks registered with torchreid; ``FACTORIES`` maps the names to the functions that build them."""

from torchreid_dfrst.models.branches import BranchNetwork
from torchreid_dfrst.models.dfrst import DFRST
from torchreid_dfrst.models.factories import FACTORIES, build, default_options
from torchreid_dfrst.models.weights import load_body, load_imagenet

__all__ = ["DFRST", "FACTORIES", "BranchNetwork", "build", "default_options", "load_body", "load_imagenet"]
