"""What every attack shares: the checked outer call, what it works with, and what it leaves."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, final

from raybd import seeds
from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput, renaming
from raybd.training import Compute, Epoch, Recipe, finished
from raybd.triggers import Goal, Trigger, check_goal


class Training(Protocol):
    """How a model is trained from scratch: `training.Recipe` with labels, `simclr.SimCLR` without."""

    def fit(
        self, model: Classifier, data: ImageSet, *, augment: Augment, compute: Compute, seed: int
    ) -> Iterator[Epoch]:
        """Train `model` in place, yielding Epochs."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A backdoored model, its trigger, and the poisoned training set where there is one.

    `poisoned` and `covers` are places in the training set: images that were poisoned, and images that carry the
    trigger, or one like it, under their true label. `last` is the last stretch of the training.
    """

    model: Classifier
    trigger: Trigger
    training_set: ImageSet | None
    poisoned: tuple[int, ...]
    last: Epoch
    covers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What an attacker works with.

    Attributes:
        train: clean training images.
        fresh_model: takes a seed and returns an untrained model.
        recipe: how a model is trained from scratch.
        augment: what training does to its images.
        compute: device, precision, threads.
        references: images of the victim's own task that the attacker holds, where that is not the task of `train`
            (latent backdoor, BadEncoder).
        on_progress: told after each stretch of a training, with a word on which training it is.
        twins: never-poisoned models at hand, by seed; those that are trained join them.
    """

    train: ImageSet
    fresh_model: Callable[[int], Classifier]
    recipe: Training
    augment: Augment
    compute: Compute
    references: ImageSet | None = None
    on_progress: Callable[[str, Epoch], None] | None = None
    twins: dict[int, Classifier] = field(default_factory=dict, repr=False, compare=False)

    def trained(self, data: ImageSet, *, seed: int, word: str) -> tuple[Classifier, Epoch]:
        """Return a model trained from scratch on `data`, ready to be read, and the last stretch of its training.

        It is in evaluation mode: left as training leaves it, its batch norm would answer by the batch, and change.
        """
        model = self.fresh_model(seeds.derive(seed, "model"))
        epochs = self.recipe.fit(
            model, data, augment=self.augment, compute=self.compute, seed=seeds.derive(seed, "training")
        )
        last = finished(self.told(epochs, word))
        return model.eval(), last

    def told(self, epochs: Iterator[Epoch], word: str) -> Iterator[Epoch]:
        """Pass `epochs` on, telling `on_progress` of each.

        Raises:
            BadInput: if the training collapses: of such a model every figure would say nothing.
        """
        for epoch in epochs:
            if epoch.collapsed:
                raise BadInput(f"training: the {word} collapsed ({epoch.collapsed}); lower its learning rate")
            if self.on_progress is not None:
                self.on_progress(word, epoch)
            yield epoch

    def twin(self, seed: int) -> Classifier:
        """Return a copy of the never-poisoned model of `seed`: the attack's seed and recipe, clean images.

        It is trained once; attacks that begin with a clean model begin with this one.
        """
        if seed not in self.twins:
            self.twins[seed], _ = self.trained(self.train, seed=seed, word="never-poisoned twin")
        return copy.deepcopy(self.twins[seed])

    @property
    def supervised(self) -> Recipe:
        """The recipe, for an attack that trains with it in its own way.

        Raises:
            BadInput: if models are trained without labels here.
        """
        if not isinstance(self.recipe, Recipe):
            raise BadInput(f"attack: trains with labels, but the models here train by {type(self.recipe).__name__}")
        return self.recipe


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A way to give a model a backdoor. A subclass writes only `run` and `trigger`.

    `goal` and `target_label` are what the backdoor is for, see `Trigger`.

    Attributes:
        scenarios: those it can be planted in.
        goals: those it can serve.
        target_of: whose labels `target_label` counts: those of the task the model is trained on, or of the victim's.
        makes_images: whether a training makes the poisoned images, which can then not be made again from the fields.
    """

    kind: ClassVar[str]
    citation: ClassVar[str]
    scenarios: ClassVar[tuple[str, ...]] = ("standalone", "transfer")
    goals: ClassVar[tuple[Goal, ...]] = ("all_to_one", "all_to_all")
    target_of: ClassVar[Literal["training", "victim"]] = "training"
    makes_images: ClassVar[bool] = False
    target_label: int | None = None
    goal: Goal = "all_to_one"

    def __post_init__(self) -> None:
        check_goal(self.target_label, self.goal)
        if self.goal not in self.goals:
            raise BadInput(f"goal: {self.kind} cannot serve '{self.goal}', only {', '.join(self.goals)}")
        if self.goal == "all_to_one" and self.target_label is None:
            raise BadInput("target_label: missing")

    @property
    def aim(self) -> dict[str, Any]:
        """What the attack's trigger is for, as its trigger's fields."""
        return {"target_label": self.target_label, "goal": self.goal}

    @abstractmethod
    def trigger(self) -> Trigger | None:
        """Return the trigger this attack plants; None where it is learnt, and so known only afterwards."""

    @abstractmethod
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Plant the backdoor; inputs are checked already."""

    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless the attack can be carried out in `workshop`; called before anything trains."""
        data = workshop.train if self.target_of == "training" else workshop.references
        if data is None:
            raise BadInput(f"attack: {self.kind} needs images of the victim's own task")
        if self.target_label is not None and not 0 <= self.target_label < data.classes:
            raise BadInput(f"attack.target_label: expected 0 to {data.classes - 1}, got {self.target_label}")
        trigger = self.trigger()
        if trigger is not None:
            with renaming("trigger", "attack"):  # its fields are the attack's, and a study has no `trigger` then
                trigger.check(workshop.train.shape, data.classes)

    @final
    def plant(self, workshop: Workshop, *, seed: int) -> Planted:
        """Check the attack against the images, then plant the backdoor.

        Raises:
            BadInput: if the trigger does not fit the images, the target is no class, or nothing would be poisoned.
        """
        self.check(workshop)
        return self.run(workshop, seed)
