"""How a model gets its backdoor: one file each; this is the table."""

from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack, Planted, Training, Workshop
from raybd.attacks.blended import Blended
from raybd.attacks.input_aware import InputAware
from raybd.attacks.poisoning import DataPoisoning, Poisoned
from raybd.attacks.trojan import Trojan

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blended": Blended,
    "input_aware": InputAware,
    "trojan": Trojan,
}

__all__ = [
    "ATTACKS",
    "Attack",
    "BadNets",
    "Blended",
    "DataPoisoning",
    "InputAware",
    "Planted",
    "Poisoned",
    "Training",
    "Trojan",
    "Workshop",
]
