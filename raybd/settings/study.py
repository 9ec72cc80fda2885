"""All that a study asks for, and the checks that look at several keys together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, PlainSerializer, PlainValidator, PrivateAttr, Strict, model_validator

from raybd.attacks import Attack, Training
from raybd.data import Augment, Source, load_source
from raybd.gate import Gate
from raybd.models import Architecture
from raybd.registry import BadInput, as_json, digest_of
from raybd.scenarios import SCENARIOS, Scenario
from raybd.search.space import Space
from raybd.settings import components
from raybd.settings.cluster import ClusterSettings
from raybd.settings.sections import (
    DataSettings,
    ModelSettings,
    ResourceSettings,
    SearchSettings,
    Section,
    SuspectSettings,
    TrackingSettings,
    UpstreamSettings,
)
from raybd.tracking import plain_name
from raybd.triggers import Trigger

_HANDS = ("workers", "executor", "trial_timeout_s")
"""Resources that say who does the work and for how long they are waited for, not what is done."""
TriggerKnowledge = Literal["planted", "given", "none"]
Reference = Annotated[str, AfterValidator(components.known_reference)]


class StudySettings(Section):
    """All that a study asks for; `load_study` makes one from a file, `parse_study` from a mapping.

    A study either adopts a suspect (`suspect`, `trigger`) or injects one (`model`, `attack`, `training`). In the
    scenarios transfer and encoder `upstream` is the task that model comes from, and `data` the user's own.
    """

    name: Annotated[str, AfterValidator(plain_name)]
    scenario: Annotated[str, AfterValidator(components.known_scenario)] = "standalone"
    suspect: SuspectSettings | None = None
    model: ModelSettings | None = None
    attack: Annotated[Attack | None, PlainValidator(components.attack), PlainSerializer(components.described)] = None
    training: Annotated[Training | None, PlainValidator(components.training), PlainSerializer(as_json)] = None
    upstream: UpstreamSettings | None = None
    data: DataSettings
    augment: Annotated[Augment, PlainValidator(components.plain(Augment)), PlainSerializer(as_json)] = Augment()
    trigger: Annotated[
        Trigger | Literal["unknown"] | None,
        PlainValidator(components.trigger),
        PlainSerializer(components.described),
    ] = None
    space: Annotated[str, AfterValidator(components.readable_space)] = "standalone"
    search: SearchSettings
    references: Annotated[tuple[Reference, ...], Strict(False)] = ("super_fine_tuning", "fine_tuning")
    gate: Annotated[Gate, PlainValidator(components.plain(Gate)), PlainSerializer(as_json)]
    tracking: TrackingSettings = TrackingSettings()
    resources: ResourceSettings = ResourceSettings()
    cluster: ClusterSettings = ClusterSettings()
    packages: Annotated[tuple[str, ...], Strict(False)] = ()

    _folder: Path = PrivateAttr()
    _given: str = PrivateAttr()
    _counted: int | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """Remember the folder of the study, from which relative paths count, and what the user called it."""
        self._folder = context["folder"]
        self._given = context["given"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = [*_form_faults(self), *_members_faults(self), *_scenario_faults(self)]
        if faults:
            raise BadInput("\n".join(faults))
        return self

    @property
    def folder(self) -> Path:
        """The study's folder: relative paths and the user's own Python files are looked for here."""
        return self._folder

    @property
    def given(self) -> str:
        """What the user called the study: a file or a shipped name."""
        return self._given

    @property
    def injects(self) -> bool:
        """Whether raybd plants the backdoor itself."""
        return self.suspect is None

    @property
    def trigger_knowledge(self) -> TriggerKnowledge:
        """What is known of the trigger, and so what can steer the search."""
        if self.injects:
            return "planted"
        return "none" if self.trigger == "unknown" else "given"

    @property
    def victim(self) -> Scenario:
        """The scenario: how the model reaches its user."""
        return SCENARIOS[self.scenario]()

    @property
    def model_name(self) -> str:
        """The name under which the sanitized model is registered."""
        return self.tracking.model_name or self.name

    def architecture(self, classes: int, shape: tuple[int, ...], *, upstream: int | None = None) -> Architecture:
        """Return the network to build, for `classes` of the user's task and images of `shape` (c, h, w).

        `upstream` is the number of classes it was trained for, where that was another task.
        """
        chosen = self.suspect or self.model
        assert chosen is not None
        return Architecture(
            head_from=self._head_from(chosen),
            upstream_classes=upstream,
            classes=classes,
            shape=shape,
            name=chosen.name,
            factory=chosen.factory,
            arguments=chosen.arguments,
            normalize=None if chosen.normalize is None else chosen.normalize.model_dump(),
            head=chosen.head,
            folder=self.folder,
            packages=self.packages,
            section="model" if self.suspect is None else "suspect",
        )

    def _head_from(self, chosen: ModelSettings) -> Literal["own", "fresh", "added"]:
        if not self.victim.downstream:
            return "own"
        features = self.scenario == "encoder" and chosen.factory is not None and chosen.head is None
        return "added" if features else "fresh"

    def upstream_classes(self) -> int | None:
        """Return for how many classes the network was trained, where that was another task than the user's.

        Where only the other task's data says so, it is read once: every stage asks.
        """
        if not self.victim.downstream or self.upstream is None:
            return None
        if self.upstream.classes is not None or not self.injects:
            return self.upstream.classes
        if self._counted is None:
            self._counted = self.upstream_source().train.classes
        return self._counted

    def upstream_source(self) -> Source:
        """Load the data set that a planted model of another task is trained on; BadInput where it is unusable."""
        up = self.upstream
        assert up is not None
        assert up.source is not None
        root = None if up.root is None else Path(up.root)
        return load_source(up.source, root=root, folder=self.folder, classes=up.classes, size=up.size)

    def source(self) -> Source:
        """Load the data set; raises BadInput where it is missing or unusable."""
        data = self.data
        root = None if data.root is None else Path(data.root)
        return load_source(data.source, root=root, folder=self.folder, classes=data.classes, size=data.size)

    def load_space(self) -> Space:
        """Return the search space."""
        return Space.load(self.space, self.folder)

    def resolved(self) -> dict[str, Any]:
        """Return the whole study, defaults written out, as plain JSON; paths are the folder's."""
        whole: dict[str, Any] = _relative(self.model_dump(mode="json", by_alias=True), f"{self.folder}/")
        return whole

    def identity(self) -> str:
        """Return a digest of what makes this study this study: all but budget, tracking and who does the work."""
        whole = {k: v for k, v in self.resolved().items() if k not in ("tracking", "cluster")}
        whole["resources"] = {k: v for k, v in whole["resources"].items() if k not in _HANDS}
        whole["search"] = {k: v for k, v in whole["search"].items() if k != "trials"}
        return digest_of(whole)


def _form_faults(study: StudySettings) -> Iterator[str]:
    """What is wrong with the choice between adopting a suspect and injecting one."""
    injecting = {key: getattr(study, key) is not None for key in ("model", "attack", "training")}
    if study.suspect is not None and any(injecting.values()):
        extra = ", ".join(repr(key) for key, given in injecting.items() if given)
        yield f"suspect: a suspect is either adopted ('suspect') or injected, but {extra} is given as well"
    elif study.suspect is not None and study.trigger is None:
        yield "trigger: missing; a study of your own model gives its trigger, or says 'trigger: unknown'"
    elif study.suspect is None and not any(injecting.values()):
        yield "suspect: missing; to plant a backdoor instead, give 'model', 'attack' and 'training'"
    elif study.suspect is None:
        yield from (f"{key}: missing; injecting needs it" for key, given in injecting.items() if not given)
        if study.trigger is not None:
            yield "trigger: not with 'attack', which plants its own"
        if study.data.members is not None:
            yield "data.members: not with 'attack'; when raybd trains the suspect it knows the members"


def _scenario_faults(study: StudySettings) -> Iterator[str]:
    """What does not go together with the study's scenario."""
    scenario, upstream = study.victim, study.upstream
    if not scenario.downstream:
        if upstream is not None:
            yield f"upstream: not in scenario {study.scenario}, whose model stays at its task"
        if isinstance(study.trigger, Trigger) and not study.trigger.aimed:
            yield "trigger.target_label: missing"
        return
    if "all_to_all" in {goal.goal for goal in (study.attack, study.trigger) if isinstance(goal, Attack | Trigger)}:
        yield "goal: all_to_all counts labels of the task a model was trained on, and means nothing under another"
    if study.injects and (upstream is None or upstream.source is None):
        yield f"upstream.source: missing; scenario {study.scenario} plants the backdoor on another task's images"
    same = upstream is not None and (upstream.source, upstream.root) == (study.data.source, study.data.root)
    if same and study.data.selection.origin == "train":
        yield "data.selection.from: with upstream.source the same data, images of 'train' are the attacker's; say test"
    if not study.injects and upstream is not None and upstream.source is not None:
        yield "upstream.source: not with 'suspect', which was trained elsewhere; only 'classes' is of use"
    if study.suspect is not None and study.suspect.name is not None and (upstream is None or upstream.classes is None):
        yield f"upstream.classes: missing; how many did {study.suspect.name} have when it was trained?"
    if study.gate.max_membership_auc_rise is not None:
        yield "gate.max_membership_auc_rise: the suspect's members are images of another task; set this limit to null"


def _members_faults(study: StudySettings) -> Iterator[str]:
    if study.data.members is not None and study.victim.downstream:
        yield "data.members: the suspect's members are images of another task, not the user's; leave this key out"
    known = study.injects or study.victim.downstream or study.data.members is not None
    if study.gate.max_membership_auc_rise is not None and not known:
        yield (
            f"gate.max_membership_auc_rise: got {study.gate.max_membership_auc_rise}, but data.members is "
            "null, so nothing can be measured; name the members, or set this limit to null"
        )


def _relative(value: Any, folder: str) -> Any:
    """`value` with every path inside `folder` written from there, so that a study can be moved."""
    if isinstance(value, Mapping):
        return {key: _relative(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_relative(inner, folder) for inner in value]
    return value.removeprefix(folder) if isinstance(value, str) else value
