"""Interactions between the feature vectors of a sample, a layer a file."""

from robe.nn.interactions.attention import SelfAttention as SelfAttention
from robe.nn.interactions.bilinear import BilinearInteraction as BilinearInteraction
from robe.nn.interactions.bilinear import SqueezeExcitation as SqueezeExcitation
from robe.nn.interactions.cin import CompressedInteraction as CompressedInteraction
from robe.nn.interactions.cross import CrossNetwork as CrossNetwork
from robe.nn.interactions.cross import CrossNetworkV2 as CrossNetworkV2
from robe.nn.interactions.dot import DotInteraction as DotInteraction
from robe.nn.interactions.fm import FactorizationMachine as FactorizationMachine
from robe.nn.interactions.fusion import BilinearFusion as BilinearFusion
