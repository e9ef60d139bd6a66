"""Click-through-rate models. Each takes its embedding as an argument."""

from robe.models.dlrm import DLRM as DLRM

MODELS = {"dlrm": DLRM}
