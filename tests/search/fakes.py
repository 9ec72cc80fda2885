"""Outcomes without training, and a tiny suspect: what the search's tests are made of."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from raybd.data import Augment, ImageSet
from raybd.evaluation.metrics import Difference, Rate
from raybd.models import Architecture
from raybd.search.records import Outcome, Proposal, TrialRecord
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from raybd.search.view import SearchView
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import state_of

N = 500
SPACE = Space.parse(
    {
        "defense": "super_fine_tuning",
        "fixed": {"batch_size": 16, "ramp_up_steps": 2, "ramp_down_steps": 2},
        "search": {
            "lr_base": {"type": "float", "low": "1e-4", "high": 1e-2, "log": True},
            "lr_max1": {"type": "float", "low": 0.01, "high": 1.5, "log": True},
            "lr_max2": {"type": "float", "low": 1e-3, "high": 0.5, "log": True},
            "epochs": {"type": "int", "low": 1, "high": 4, "log": True},
            "phase1_share": {"type": "float", "low": 0.2, "high": 0.6},
            "clean_fraction": {"type": "categorical", "choices": [0.5, 1.0]},
        },
        "first": [
            {
                "lr_base": 3e-4,
                "lr_max1": 0.1,
                "lr_max2": 1e-3,
                "epochs": 2,
                "phase1_share": 0.5,
                "clean_fraction": 1.0,
            }
        ],
    },
    where="space",
)
LIMITS = Limits(max_attack_success_rate=0.05, max_accuracy_drop=0.02)


def open_decider(folder: Path, **changes: object) -> OptunaDecider:
    arguments: dict[str, object] = {
        "name": "study",
        "space": SPACE,
        "limits": LIMITS,
        "suspect_digest": "suspect",
        "trials": 8,
    }
    return OptunaDecider.open(folder, **{**arguments, **changes})  # type: ignore[arg-type]


def measured(asr: float, accuracy: float, *, collapsed: bool = False, reference: float = 0.98) -> Outcome:
    drop = reference - accuracy
    return Outcome(
        state="complete",
        collapsed=collapsed,
        reason="the loss is not finite" if collapsed else "",
        clean_accuracy=Rate.of(round(accuracy * N), N),
        attack_success_rate=Rate.of(round(asr * N), N),
        robust_accuracy=Rate.of(round((1 - asr) * N), N),
        accuracy_drop=Difference(value=drop, low=drop - 0.01, high=drop + 0.01, n=N),
        objectives={"attack_success_rate": asr, "clean_accuracy": accuracy},
    )


def pretend(proposal: Proposal) -> Outcome:
    """A smooth stand-in for a trial: a high first peak removes the backdoor and costs accuracy."""
    peak = math.log10(proposal.setting["lr_max1"])
    asr = 1 / (1 + math.exp(12 * (peak + 0.8)))
    loss = 0.002 + 0.05 / (1 + math.exp(-6 * (peak + 0.2))) + 0.004 * (1 - proposal.setting["clean_fraction"])
    return measured(asr, 0.98 - loss)


def drive(
    decider: OptunaDecider, *, stop_after: int | None = None, answer: Callable[[Proposal], Outcome] = pretend
) -> list[Proposal]:
    """Ask and tell until nothing is asked, or `stop_after` trials have ended; return what was proposed."""
    proposals = []
    while (stop_after is None or len(proposals) < stop_after) and (proposal := decider.ask()) is not None:
        proposals.append(proposal)
        decider.tell(proposal.number, answer(proposal))
    return proposals


def facts(records: tuple[TrialRecord, ...]) -> list[TrialRecord]:
    """The records without what differs from run to run: times and processes."""
    return [replace(r, training_seconds=0.0, evaluation_seconds=0.0, worker="") for r in records]


def tiny_view(seed: int = 0) -> SearchView:
    """An untrained net and a few images of noise with a class-dependent brightness; a trial takes 0.1 s."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(96) % 4
    images = torch.randint(0, 128, (96, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images += (labels * 30).to(torch.uint8).view(-1, 1, 1, 1)
    data = ImageSet(images=images, labels=labels, classes=4)
    architecture = Architecture(name="small_resnet", classes=4, shape=(1, 8, 8))
    return SearchView(
        architecture=architecture,
        state=state_of(architecture.build(seed)),
        clean_set=data.subset(range(48)),
        selection=data.subset(range(48, 96)),
        trigger=Patch(size=2, target_label=0),
        augment=Augment(),
        compute=Compute(channels_last=False),
        seed=seed,
        reference_correct=torch.arange(48) % 8 != 0,
    )
