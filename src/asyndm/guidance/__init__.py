"""Guidances, one small file each. No torch: they are read where runs are planned."""

from asyndm.guidance.apg import APG
from asyndm.guidance.attend_and_excite import AttendAndExcite
from asyndm.guidance.base import Cost, Guidance, Guided, Outputs
from asyndm.guidance.cfg_plus_plus import CFGPlusPlus
from asyndm.guidance.cfg_zero_star import CFGZeroStar
from asyndm.guidance.classifier_free import ClassifierFree
from asyndm.guidance.fsg import FSG
from asyndm.guidance.init_no import InitNO
from asyndm.guidance.interval import Interval
from asyndm.guidance.perturbed import Perturbed, PerturbedAttention, SkipLayers, SmoothedEnergy
from asyndm.guidance.s_cfg import SCFG
from asyndm.guidance.syngen import SynGen
from asyndm.guidance.z_sampling import ZSampling

__all__ = [
    "APG",
    "FSG",
    "SCFG",
    "AttendAndExcite",
    "CFGPlusPlus",
    "CFGZeroStar",
    "ClassifierFree",
    "Cost",
    "Guidance",
    "Guided",
    "InitNO",
    "Interval",
    "Outputs",
    "Perturbed",
    "PerturbedAttention",
    "SkipLayers",
    "SmoothedEnergy",
    "SynGen",
    "ZSampling",
]
