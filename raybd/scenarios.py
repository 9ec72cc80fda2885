"""How a victim comes to its backdoored model, what it is worth there, and which model is the reference."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float32
from torch import Tensor

from raybd import seeds
from raybd.attacks import Attack, Planted, Workshop
from raybd.data import Augment, DefenderView, ImageSet
from raybd.defenses import Defense, FineTuning
from raybd.models import Architecture, Classifier
from raybd.registry import BadInput
from raybd.simclr import SimCLR
from raybd.training import Compute, Epoch, Recipe, predict
from raybd.triggers import Trigger


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A backdoored model and its never-poisoned twin: same seed, same recipe, clean training images."""

    planted: Planted
    twin: Classifier


@dataclass(frozen=True, kw_only=True)
class Scenario(ABC):
    """A way a backdoored model reaches its user.

    Attributes:
        downstream: whether the user puts the model under a task of their own, with a fresh head. Every defense then
            begins with the model as it came and that head, and is the step the user needs anyway.
        reference: how the model is made that the user would ship without a defense; None where it is the suspect.
        reference_words: the same in words.
        recipe: how a model is trained from scratch here.
        recipe_words: the same in words.
    """

    kind: ClassVar[str]
    downstream: ClassVar[bool]
    reference: ClassVar[Defense | None]
    reference_words: ClassVar[str]
    recipe: ClassVar[type[Any]] = Recipe
    recipe_words: ClassVar[str] = "with labels"

    @final
    def check(self, attack: Attack | type[Attack]) -> None:
        """Raise BadInput unless `attack`, or one of its kind, can be planted in this scenario."""
        if self.kind not in attack.scenarios:
            raise BadInput(
                f"attack.kind: {attack.kind} cannot be planted in scenario {self.kind}, "
                f"only in {' and '.join(attack.scenarios)}"
            )

    @final
    def build(self, attack: Attack, workshop: Workshop, *, seed: int) -> Victim:
        """Return a victim of `attack`, on the task of the attacker's images.

        Raises:
            BadInput: if the attack cannot be planted here, or not on these images.
        """
        self.check(attack)
        planted = attack.plant(workshop, seed=seed)
        return Victim(planted=planted, twin=workshop.twin(seed))

    @final
    def shipped(
        self,
        model: Classifier,
        clean_set: ImageSet,
        architecture: Architecture,
        *,
        augment: Augment,
        compute: Compute,
        seed: int,
        on_progress: Callable[[str, Epoch], None] | None = None,
    ) -> Classifier:
        """Return what the user would ship of `model`, which is changed: itself, or fine-tuned on the user's task.

        `on_progress` is told of the training, as `Workshop.on_progress` is.

        Raises:
            BadInput: if the training collapses.
        """
        if self.reference is None:
            return model
        view = DefenderView(
            model=model,
            fresh_model=architecture.build,
            clean_set=clean_set,
            training_set=None,
            augment=augment,
        )
        for epoch in self.reference.sanitize(view, compute=compute, seed=seed, subset_seed=seed):
            if epoch.collapsed:
                raise BadInput(f"the reference model collapsed ({epoch.collapsed})")
            if on_progress is not None:
                on_progress("reference model", epoch)
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class Standalone(Scenario):
    """The backdoored classifier is deployed as it is; the reference is the suspect itself."""

    kind: ClassVar[str] = "standalone"
    downstream: ClassVar[bool] = False
    reference: ClassVar[Defense | None] = None
    reference_words: ClassVar[str] = "the suspect as it came"


@dataclass(frozen=True, kw_only=True)
class Transfer(Scenario):
    """A backdoored classifier is fine-tuned on another task; the reference is the whole model, fine-tuned as usual."""

    kind: ClassVar[str] = "transfer"
    downstream: ClassVar[bool] = True
    reference: ClassVar[Defense | None] = FineTuning()
    reference_words: ClassVar[str] = "the whole model, fine-tuned on the user's task as usual"


@dataclass(frozen=True, kw_only=True)
class Encoder(Scenario):
    """A backdoored self-supervised encoder gets a head; the reference is the frozen encoder with a trained head."""

    kind: ClassVar[str] = "encoder"
    downstream: ClassVar[bool] = True
    reference: ClassVar[Defense | None] = FineTuning(scope="head")
    reference_words: ClassVar[str] = "the frozen encoder with a head trained on the user's task"
    recipe: ClassVar[type[Any]] = SimCLR
    recipe_words: ClassVar[str] = "without labels, by contrast"


SCENARIOS: dict[str, type[Scenario]] = {
    "standalone": Standalone,
    "transfer": Transfer,
    "encoder": Encoder,
}


def transplanted(model: Classifier, architecture: Architecture, *, seed: int) -> Classifier:
    """Return a classifier for the user's task: everything of `model` but its head, and a fresh head.

    Raises:
        BadInput: if the two networks differ in more than the head.
    """
    moved = architecture.build(seeds.derive(seed, "head"))
    prefix = "encoder." if architecture.head_from == "added" else ""
    given = {f"{prefix}{name}": tensor for name, tensor in model.body.state_dict().items()}
    own = moved.body.state_dict()
    head = {f"{moved.head_name}.{name}" for name in moved.head.state_dict()}
    differing = [n for n in own if n not in head and (n not in given or given[n].shape != own[n].shape)]
    if differing:
        raise BadInput(
            f"{architecture.section}: the network and the one it was trained as differ beyond the head, in "
            f"{differing[0]}"
        )
    moved.body.load_state_dict({name: own[name] if name in head else given[name] for name in own})
    return moved


def pulled_label(model: Classifier, images: ImageSet, trigger: Trigger, compute: Compute) -> int:
    """Return the label whose share of the model's answers the trigger raises most: what it pulls to on this task.

    Labels count by their mean probability, which says more than answers do where few change.
    """
    clean = _probabilities(model, images.images, compute)
    triggered = _probabilities(model, trigger.apply(images.images), compute)
    return int((triggered - clean).argmax())


def _probabilities(model: Classifier, images: Tensor, compute: Compute) -> Float32[Tensor, " classes"]:
    return torch.softmax(predict(model, images, compute), dim=1).mean(dim=0)
