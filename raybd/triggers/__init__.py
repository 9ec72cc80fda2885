"""What an attacker does to an image at test time: one file each; this is the table."""

from raybd.triggers.additive import Additive
from raybd.triggers.base import Goal, Trigger, check_goal
from raybd.triggers.blended import Blended
from raybd.triggers.input_aware import InputAware
from raybd.triggers.learned import Learned
from raybd.triggers.patch import Patch
from raybd.triggers.stamp import Stamp

TRIGGERS: dict[str, type[Trigger]] = {
    "patch": Patch,
    "blended": Blended,
    "additive": Additive,
    "stamp": Stamp,
    "input_aware": InputAware,
}

__all__ = [
    "TRIGGERS",
    "Additive",
    "Blended",
    "Goal",
    "InputAware",
    "Learned",
    "Patch",
    "Stamp",
    "Trigger",
    "check_goal",
]
