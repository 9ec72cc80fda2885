"""What an attacker does to an image at test time: one file each; this is the table."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from raybd.registry import BadInput, build
from raybd.triggers.additive import Additive
from raybd.triggers.base import Goal, Trigger, check_goal
from raybd.triggers.blended import Blended
from raybd.triggers.corners import Corners
from raybd.triggers.input_aware import InputAware
from raybd.triggers.learned import Learned
from raybd.triggers.low_frequency import LowFrequency
from raybd.triggers.patch import Patch
from raybd.triggers.sinusoid import Sinusoid
from raybd.triggers.stamp import Stamp
from raybd.triggers.warp import Warp

TRIGGERS: dict[str, type[Trigger]] = {
    "patch": Patch,
    "blended": Blended,
    "additive": Additive,
    "low_frequency": LowFrequency,
    "sinusoid": Sinusoid,
    "warp": Warp,
    "corners": Corners,
    "stamp": Stamp,
    "input_aware": InputAware,
}


def learnt(fields: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str) -> Learned:
    """Return the learned trigger with the YAML keys `fields` and these tensors.

    Raises:
        BadInput: if it is of no kind that is learnt, or the tensors are not its own; `where` names it.
    """
    trigger = build(TRIGGERS, fields, where=where)
    if not isinstance(trigger, Learned):
        raise BadInput(f"{where}.kind: '{trigger.kind}' is not learnt")
    return trigger.with_tensors(tensors)


__all__ = [
    "TRIGGERS",
    "Additive",
    "Blended",
    "Corners",
    "Goal",
    "InputAware",
    "Learned",
    "LowFrequency",
    "Patch",
    "Sinusoid",
    "Stamp",
    "Trigger",
    "Warp",
    "check_goal",
    "learnt",
]
