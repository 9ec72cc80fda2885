"""How a model gets its backdoor: one file each; this is the table."""

from raybd.attacks.bad_encoder import BadEncoder
from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, Planted, Training, Workshop
from raybd.attacks.blended import Blended
from raybd.attacks.latent import Latent
from raybd.attacks.poisoning import DataPoisoning, Poisoned

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blended": Blended,
    "latent": Latent,
    "bad_encoder": BadEncoder,
}

__all__ = [
    "ATTACKS",
    "Attack",
    "BadEncoder",
    "BadNets",
    "Blended",
    "DataPoisoning",
    "Latent",
    "Planted",
    "Poisoned",
    "Training",
    "Workshop",
]
