"""The sections of a study file that are plain keys and values; components are in `components`."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from raybd.data import Part, SplitPlan
from raybd.registry import BadInput, as_number
from raybd.search.records import Stopping
from raybd.tracking import free_alias, open_uri, plain_name


def _number(value: object) -> object:
    """Text that YAML did not read as a number, such as `1e-4`, as the number it is; the rest untouched."""
    if not isinstance(value, str):
        return value
    try:
        number = as_number(value, where="")
    except BadInput:
        return value
    return int(number) if number == int(number) else number


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]


class Section(BaseModel):
    """A mapping of the study file: no unknown keys, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


class NormalizeSettings(Section):
    """What the network wants subtracted from and divided out of its input, one number per channel."""

    mean: list[Real]
    std: list[Real]


class ModelSettings(Section):
    """A network by name (`raybd list models`) or by the user's own factory `module:function`."""

    name: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    normalize: NormalizeSettings | None = None
    head: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.factory is None):
            raise BadInput("expected either 'name' (see `raybd list models`) or 'factory' (module:function)")
        return self


class SuspectSettings(ModelSettings):
    """A model from outside: its network, and the file or registry URI that holds its weights."""

    weights: str
    state_dict_key: str | None = None


class PartSettings(Section):
    """A seeded, stratified draw from the `train` or `test` part of the data, or a whole .npz file."""

    origin: str = Field(alias="from")
    size: Annotated[Whole, Field(ge=1)] | None = None

    def part(self) -> Part:
        """Return what `raybd.data.split` takes."""
        return Part(origin=self.origin, size=self.size)


class DataSettings(Section):
    """Where the images come from (see `raybd list sources`) and how they are split.

    `size` scales images to a square of so many pixels; `classes` is for labels that do not name them all.
    """

    source: str
    root: str | None = None
    size: Annotated[Whole, Field(ge=1)] | None = None
    classes: Annotated[Whole, Field(ge=2)] | None = None
    clean_set: PartSettings
    selection: PartSettings
    test: PartSettings | None = None
    members: PartSettings | None = None
    seed: Whole = 0

    def plan(self) -> SplitPlan:
        """Return what `raybd.data.split` takes."""
        parts = {name: getattr(self, name) for name in ("clean_set", "selection", "test", "members")}
        return SplitPlan(**{name: part and part.part() for name, part in parts.items()})


class UpstreamSettings(Section):
    """The task a model of scenario transfer or encoder was trained on, before its user put it under `data`.

    Where raybd plants the backdoor, `source` names the attacker's images (its train part, or `images` of them) as
    `data.source` does. Of a model from outside only `classes` is needed, and only where the network is one of raybd's.
    """

    source: str | None = None
    root: str | None = None
    size: Annotated[Whole, Field(ge=1)] | None = None
    classes: Annotated[Whole, Field(ge=2)] | None = None
    images: Annotated[Whole, Field(ge=2)] | None = None


class SearchSettings(Section):
    """How many settings to try, who proposes them, and what accuracy they may cost on the selection split.

    `stop_hopeless` ends a trial that keeps the backdoor when its large peak is past; `early_stopping: halving` those
    that are behind the others part of the way through.
    """

    trials: Annotated[Whole, Field(ge=1)] = 32
    sampler: Literal["tpe", "nsga2", "gp", "qmc", "random"] = "tpe"
    seed: Whole = 0
    max_accuracy_drop: Annotated[Real, Field(gt=0, lt=1)]
    stop_hopeless: bool = False
    early_stopping: Literal["none", "halving"] = "none"

    def stopping(self) -> Stopping:
        """Return which trials are given up before their end."""
        return Stopping(hopeless=self.stop_hopeless, halving=self.early_stopping == "halving")


class TrackingSettings(Section):
    """Where runs are recorded (null: SQLite in the run folder) and under which name a model is promoted."""

    uri: Annotated[str, AfterValidator(open_uri)] | None = None
    model_name: Annotated[str, AfterValidator(plain_name)] | None = None
    alias: Annotated[str, AfterValidator(free_alias)] = "candidate"


class ResourceSettings(Section):
    """What one trial may use, how many run at once (null: as many as fit), in which precision, and by whom.

    The executor `ray` uses local workers or a cluster; `local` runs the same trials in this process. A worker whose
    trial has not shown for `trial_timeout_s` seconds how far it is (each cycle of its training, each look, its end) is
    taken as hung and replaced, and the trial is repeated; null waits for ever, as `local` always does.
    """

    cpus_per_trial: Annotated[Whole, Field(ge=1)] = 1
    gpus_per_trial: Annotated[Real, Field(ge=0)] = 0.0
    workers: Annotated[Whole, Field(ge=1)] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    executor: Literal["ray", "local"] = "ray"
    trial_timeout_s: Annotated[Real, Field(gt=0)] | None = 3600.0
