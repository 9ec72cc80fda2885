"""How a victim comes to its backdoored model, what the defender may train, and which model is the reference."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from raybd.attacks import Attack, Planted, Workshop
from raybd.models import Classifier


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A backdoored model and its never-poisoned twin: same seed, same recipe, clean training images."""

    planted: Planted
    twin: Classifier


@dataclass(frozen=True, kw_only=True)
class Scenario(ABC):
    """A way a backdoored model reaches its user.

    `trainable` says what the defender may train; `reference` which model the user would ship without a defense.
    """

    kind: ClassVar[str]
    trainable: ClassVar[Literal["whole", "head"]]
    reference: ClassVar[str]

    @abstractmethod
    def build(self, attack: Attack, workshop: Workshop, *, seed: int) -> Victim:
        """Return a victim of `attack`."""


@dataclass(frozen=True, kw_only=True)
class Standalone(Scenario):
    """The backdoored classifier is deployed as it is; the reference is the suspect itself."""

    kind: ClassVar[str] = "standalone"
    trainable: ClassVar[Literal["whole", "head"]] = "whole"
    reference: ClassVar[str] = "suspect"

    def build(self, attack: Attack, workshop: Workshop, *, seed: int) -> Victim:
        """Plant the backdoor, and train the twin on the same images without poison."""
        planted = attack.plant(workshop, seed=seed)
        return Victim(planted=planted, twin=workshop.twin(seed))


SCENARIOS: dict[str, type[Scenario]] = {
    "standalone": Standalone,
}
