"""How a model gets its backdoor: one file each; this is the table."""

from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, DataPoisoning, Planted, Workshop, train_fresh
from raybd.attacks.blended import Blended

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blended": Blended,
}

__all__ = ["ATTACKS", "Attack", "BadNets", "Blended", "DataPoisoning", "Planted", "Workshop", "train_fresh"]
