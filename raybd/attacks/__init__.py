"""How a model gets its backdoor: one file each; this is the table."""

from raybd.attacks.adaptive_blend import AdaptiveBlend
from raybd.attacks.bad_encoder import BadEncoder
from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, Planted, Training, Workshop
from raybd.attacks.blended import Blended
from raybd.attacks.input_aware import InputAware
from raybd.attacks.label_consistent import LabelConsistent
from raybd.attacks.latent import Latent
from raybd.attacks.low_frequency import LowFrequency
from raybd.attacks.poisoning import DataPoisoning, Poisoned
from raybd.attacks.sig import Sig
from raybd.attacks.trojan import Trojan
from raybd.attacks.wanet import WaNet

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blended": Blended,
    "low_frequency": LowFrequency,
    "sig": Sig,
    "wanet": WaNet,
    "adaptive_blend": AdaptiveBlend,
    "label_consistent": LabelConsistent,
    "input_aware": InputAware,
    "trojan": Trojan,
    "latent": Latent,
    "bad_encoder": BadEncoder,
}

__all__ = [
    "ATTACKS",
    "AdaptiveBlend",
    "Attack",
    "BadEncoder",
    "BadNets",
    "Blended",
    "DataPoisoning",
    "InputAware",
    "LabelConsistent",
    "Latent",
    "LowFrequency",
    "Planted",
    "Poisoned",
    "Sig",
    "Training",
    "Trojan",
    "WaNet",
    "Workshop",
]
