"""Click-through-rate models. Each takes its embedding as an argument: ids [B, F] -> [B, F, D]."""

from torch import nn

from robe.models.autoint import AutoInt as AutoInt
from robe.models.common import ClickModel as ClickModel
from robe.models.common import EmbeddingCollection as EmbeddingCollection
from robe.models.dcn import DCN as DCN
from robe.models.dcnv2 import DCNv2 as DCNv2
from robe.models.deepfm import DeepFM as DeepFM
from robe.models.dlrm import DLRM as DLRM
from robe.models.fibinet import FiBiNET as FiBiNET
from robe.models.finalmlp import FinalMLP as FinalMLP
from robe.models.xdeepfm import XDeepFM as XDeepFM

MODELS: dict[str, type[nn.Module]] = {
    "dlrm": DLRM,
    "dcn": DCN,
    "autoint": AutoInt,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "fibinet": FiBiNET,
    "dcnv2": DCNv2,
    "finalmlp": FinalMLP,
}
