"""How a backdoor is taken out again: one file each; this is the table, and the settings others published."""

from raybd.defenses.base import Defense
from raybd.defenses.fine_tuning import FineTuning
from raybd.defenses.super_fine_tuning import SuperFineTuning
from raybd.registry import BadInput, nearest

DEFENSES: dict[str, type[Defense]] = {
    "super_fine_tuning": SuperFineTuning,
    "fine_tuning": FineTuning,
}

PRESETS: dict[str, dict[str, Defense]] = {
    "super_fine_tuning": {
        # As three re-implementations agree on them; the paper's own text could not be checked.
        "paper": SuperFineTuning(lr_base=3e-4, lr_max1=0.1, lr_max2=1e-3, epochs=6, phase1_share=0.5),
        # backdoor-toolbox, commit d6d6ad0: plain SGD, 2,000 clean images, phase 1 = 40 of 100 epochs.
        "toolbox_cifar10": SuperFineTuning(
            lr_base=3e-2, lr_max1=2.5, lr_max2=0.05, epochs=100, phase1_share=0.4, momentum=0.0, weight_decay=0.0
        ),
        "toolbox_gtsrb": SuperFineTuning(
            lr_base=3e-3, lr_max1=0.25, lr_max2=0.005, epochs=100, phase1_share=0.4, momentum=0.0, weight_decay=0.0
        ),
    },
    "fine_tuning": {
        "backdoorbench": FineTuning(),
        "head": FineTuning(scope="head"),
    },
}


def reference(name: str) -> Defense:
    """Return the published settings that `name` means: a defense (its first preset) or `defense:preset`.

    Raises:
        BadInput: if there is no such defense or preset.
    """
    kind, _, preset = name.partition(":")
    if kind not in PRESETS:
        raise BadInput(f"references: unknown defense '{kind}'{nearest(kind, PRESETS)}")
    chosen = preset or next(iter(PRESETS[kind]))
    if chosen not in PRESETS[kind]:
        raise BadInput(f"references: '{kind}' has no preset '{chosen}'{nearest(chosen, PRESETS[kind])}")
    return PRESETS[kind][chosen]


__all__ = ["DEFENSES", "PRESETS", "Defense", "FineTuning", "SuperFineTuning", "reference"]
