"""What else the cure changed: membership inference and re-injection, for every model of the assessment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from raybd.evaluation.membership_inference import MembershipReading, auc_rise, loss_threshold
from raybd.evaluation.metrics import Difference, Rate
from raybd.registry import BadInput

POISONED_SAMPLES = (0, 1, 5, 20, 100)
"""Re-injection is tried with so many poisoned samples; 0 is the control."""


@dataclass(frozen=True, kw_only=True)
class MembershipComparison:
    """One reading of membership inference over several models; None where a model collapsed.

    `rise` is the candidate's AUC minus that of the model it is compared with, paired on the same images.
    """

    members_are: str
    members: int
    non_members: int
    rows: dict[str, MembershipReading | None]
    rise: Difference | None
    compared: str


@dataclass(frozen=True, kw_only=True)
class Reinjection:
    """ASR on test after fine-tuning with k poisoned samples, for each model and each k of `poisoned_samples`.

    None where that fine-tuning wrecked the model.
    """

    poisoned_samples: tuple[int, ...]
    steps: int
    lr: float
    batch_size: int
    curves: dict[str, tuple[Rate | None, ...]]


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The two readings, never mixed: what it means for the suspect's data, and for the defender's."""

    suspect_members: MembershipComparison | None
    trained_on: MembershipComparison | None


@dataclass(frozen=True, kw_only=True)
class Sequela:
    """What else changed between suspect and candidate."""

    membership: Membership
    reinjection: Reinjection | None


def compare_membership(
    members: Mapping[str, Tensor],
    non_members: Mapping[str, Tensor],
    *,
    collapsed: Sequence[str],
    against: str,
    members_are: str,
) -> MembershipComparison:
    """Read membership for every model and the candidate's rise over the model named `against`.

    Args:
        members: per model, losses (m,) of the members.
        non_members: per model, losses (n,) of the non-members, the same images for all.
        collapsed: the models that get no reading.
        against: the model the candidate is compared with.
        members_are: in words, which images the members are.
    """
    if "candidate" not in members or against not in members:
        raise BadInput(f"membership: losses of 'candidate' and '{against}' are needed, got {sorted(members)}")
    rows = {name: None if name in collapsed else loss_threshold(members[name], non_members[name]) for name in members}
    rise = None
    if rows["candidate"] is not None and rows[against] is not None:
        rise = auc_rise(members[against], non_members[against], members["candidate"], non_members["candidate"])
    return MembershipComparison(
        members_are=members_are,
        members=len(members["candidate"]),
        non_members=len(non_members["candidate"]),
        rows=rows,
        rise=rise,
        compared=f"candidate minus {against}",
    )
