"""Re-injection: how few poisoned samples bring a backdoor back (the retuning attack, arXiv 2410.09838)."""

import copy
import math

import torch
from torch import nn

from raybd import schedules, seeds
from raybd.data import Augment, ImageSet
from raybd.evaluation.metrics import Rate, attack_success_rate, attackable
from raybd.registry import BadInput
from raybd.training import Compute, finished, fit
from raybd.triggers import Trigger

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


def reinject(
    model: nn.Module,
    clean_set: ImageSet,
    trigger: Trigger,
    test: ImageSet,
    *,
    poisoned_samples: int,
    steps: int,
    lr: float,
    batch_size: int,
    compute: Compute,
    seed: int,
) -> Rate | None:
    """The attack success rate of a copy of `model`, fine-tuned on `clean_set` plus a few poisoned samples.

    The copy is trained for `steps` steps at the constant rate `lr`, without augmentation; `model` itself is
    left as it is. 0 poisoned samples are the control. With one seed, the samples of a smaller number are
    among those of a larger, and every model gets the same ones.

    Args:
        model: the model to attack.
        clean_set: what the attacker has besides the poison.
        trigger: the trigger to bring back.
        test: the images the attack success rate is read on.
        poisoned_samples: how many images of `clean_set` whose goal is not their label join the pool a second
            time, triggered and relabelled.
        steps: optimiser steps.
        lr: learning rate.
        batch_size: images per step.
        compute: device, precision, threads; the rate is read in full precision.
        seed: of the choice of samples and of the order of batches.

    Returns:
        The rate, or None if the training diverged: a wrecked model obeys no trigger and resists nothing.

    Raises:
        BadInput: there are fewer such images than `poisoned_samples`, or none in `test`.

    Reference: Min et al., "Uncovering, explaining, and mitigating the superficial safety of backdoor
    defense", NeurIPS 2024 (arXiv 2410.09838).
    """
    pool = poisoned_pool(clean_set, trigger, poisoned_samples, seed=seed)
    attacked = copy.deepcopy(model)
    last = finished(
        fit(
            attacked,
            pool,
            steps=steps,
            batch_size=batch_size,
            schedule=schedules.constant(lr),
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            augment=Augment(),
            compute=compute,
            seed=seeds.derive(seed, "reinjection", "training"),
        )
    )
    if not math.isfinite(last.loss):
        return None
    return attack_success_rate(attacked, test, trigger, compute.exact())


def poisoned_pool(clean_set: ImageSet, trigger: Trigger, poisoned_samples: int, *, seed: int) -> ImageSet:
    """`clean_set` followed by `poisoned_samples` of its images, triggered and labelled with their goal.

    Raises:
        BadInput: fewer images of `clean_set` than that have a goal other than their label.
    """
    if poisoned_samples == 0:
        return clean_set
    candidates, goals = attackable(clean_set, trigger)
    if not 0 < poisoned_samples <= len(goals):
        raise BadInput(f"poisoned_samples: got {poisoned_samples}, the clean set has {len(goals)} images to poison")
    order = torch.randperm(len(goals), generator=seeds.generator(seed, "reinjection", "samples"))
    chosen = order[:poisoned_samples]
    return ImageSet(
        images=torch.cat([clean_set.images, trigger.apply(candidates.images[chosen])]),
        labels=torch.cat([clean_set.labels, goals[chosen]]),
        classes=clean_set.classes,
    )
