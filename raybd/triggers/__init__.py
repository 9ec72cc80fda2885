"""What an attacker does to an image at test time: one file each; this is the table."""

from raybd.triggers.additive import Additive
from raybd.triggers.base import Goal, Trigger, check_goal
from raybd.triggers.blended import Blended
from raybd.triggers.corners import Corners
from raybd.triggers.learned import Learned
from raybd.triggers.low_frequency import LowFrequency
from raybd.triggers.patch import Patch
from raybd.triggers.sinusoid import Sinusoid
from raybd.triggers.warp import Warp

TRIGGERS: dict[str, type[Trigger]] = {
    "patch": Patch,
    "blended": Blended,
    "additive": Additive,
    "low_frequency": LowFrequency,
    "sinusoid": Sinusoid,
    "warp": Warp,
    "corners": Corners,
}

__all__ = [
    "TRIGGERS",
    "Additive",
    "Blended",
    "Corners",
    "Goal",
    "Learned",
    "LowFrequency",
    "Patch",
    "Sinusoid",
    "Trigger",
    "Warp",
    "check_goal",
]
