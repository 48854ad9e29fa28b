"""The methods that come with foveate, one file each.

A class registers itself when it is defined (foveate.carve.method); this list is what makes the
built-in ones be defined. Adding one: docs/add-a-method.md.
"""

from __future__ import annotations

from foveate.carve.methods.apet import ApET as ApET
from foveate.carve.methods.average_pooling import AveragePooling as AveragePooling
from foveate.carve.methods.cdpruner import CdPruner as CdPruner
from foveate.carve.methods.dart import Dart as Dart
from foveate.carve.methods.divprune import DivPrune as DivPrune
from foveate.carve.methods.dtd import Dtd as Dtd
from foveate.carve.methods.evs import Evs as Evs
from foveate.carve.methods.fastv import FastV as FastV
from foveate.carve.methods.foveacarve import FoveaCarve as FoveaCarve
from foveate.carve.methods.hiprune import HiPrune as HiPrune
from foveate.carve.methods.holov import HoloV as HoloV
from foveate.carve.methods.mmtok import MmTok as MmTok
from foveate.carve.methods.noop import NoOp as NoOp
from foveate.carve.methods.pixelprune import PixelPrune as PixelPrune
from foveate.carve.methods.prune_and_merge import PruneAndMerge as PruneAndMerge
from foveate.carve.methods.pyramiddrop import PyramidDrop as PyramidDrop
from foveate.carve.methods.random_tokens import RandomTokens as RandomTokens
from foveate.carve.methods.resize import ResizeFirst as ResizeFirst
from foveate.carve.methods.scope import Scope as Scope
from foveate.carve.methods.sparsevlm import SparseVlm as SparseVlm
from foveate.carve.methods.tokencarve import TokenCarve as TokenCarve
from foveate.carve.methods.tome import ToMe as ToMe
from foveate.carve.methods.uniform import UniformGrid as UniformGrid
from foveate.carve.methods.v2drop import V2Drop as V2Drop
from foveate.carve.methods.vidcom2 import VidCom2 as VidCom2
from foveate.carve.methods.visionzip import VisionZip as VisionZip
from foveate.carve.methods.vispruner import VisPruner as VisPruner
from foveate.carve.methods.vscan import VScan as VScan
