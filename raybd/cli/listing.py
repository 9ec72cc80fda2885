"""What a study can name, with one line on each: the tables of the zoos, read for a person."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Entries = list[tuple[str, str]]


def entries(what: str) -> Entries:
    """Return the names in the list `what`, one of `raybd.cli.show.LISTS`, each with a line on it."""
    return _LISTS[what]()


def _models() -> Entries:
    from raybd.architectures import ARCHITECTURES

    return [(name, _first_line(build)) for name, build in ARCHITECTURES.items()]


def _attacks() -> Entries:
    from raybd.attacks import ATTACKS

    return [(kind, f"{text} Scenarios: {', '.join(ATTACKS[kind].scenarios)}.") for kind, text in _components(ATTACKS)]


def _scenarios() -> Entries:
    from raybd.scenarios import SCENARIOS

    return [
        (kind, f"{_first_line(cls)} Trained {cls.recipe_words}; keys of `training`: {', '.join(_keys(cls.recipe))}.")
        for kind, cls in SCENARIOS.items()
    ]


def _defenses() -> Entries:
    from raybd.defenses import DEFENSES

    return _components(DEFENSES)


def _triggers() -> Entries:
    from raybd.triggers import TRIGGERS

    return _components(TRIGGERS)


def _schedules() -> Entries:
    from raybd import schedules

    made = inspect.getmembers(schedules, lambda f: inspect.isfunction(f) and f.__module__ == schedules.__name__)
    return [
        (name, _first_line(f))
        for name, f in made
        if inspect.signature(f).return_annotation == schedules.Schedule and not name.startswith("_")
    ]


def _spaces() -> Entries:
    from raybd.search.space import Space
    from raybd.yaml_file import shipped, shipped_folder

    folder = shipped_folder()
    spaces = {name: Space.load(name, folder) for name in shipped(folder)}
    rounded = "; epochs are rounded up to whole cycles of ramps, at least two: few images make more of them"
    return [
        (name, f"{space.defense}: {', '.join(space.search)}{rounded if space.defense == 'super_fine_tuning' else ''}")
        for name, space in spaces.items()
    ]


def _presets() -> Entries:
    from raybd.defenses import PRESETS
    from raybd.registry import as_json
    from raybd.report.wording import plain, setting

    return [
        (f"{defense}:{preset}", plain(setting(as_json(values))))
        for defense, presets in PRESETS.items()
        for preset, values in presets.items()
    ]


def _sources() -> Entries:
    from raybd.sources import TORCHVISION

    return [
        ("digits", "scikit-learn's 1,797 images of 8 x 8 pixels; nothing to download"),
        ("FILE.npz", "x_train, y_train and perhaps x_test, y_test; uint8, (n, height, width[, channels])"),
        ("FOLDER", "one folder of images per class, directly or under train/ and test/"),
        *((name, "torchvision; data.root names the folder that holds it") for name in sorted(TORCHVISION)),
    ]


def _samplers() -> Entries:
    from raybd.search.samplers import SAMPLERS, SUCCESSORS

    words = {
        "tpe": "tree-structured Parzen estimator, multi-objective; the default",
        "nsga2": "genetic search in generations of 20",
        "gp": "Gaussian process; slow to propose",
        "qmc": "quasi-random points that fill the space evenly",
        "random": "independent random points",
    }
    then = {name: f"; after {s.draw:,} settings {s.name} takes over" for name, s in SUCCESSORS.items()}
    return [(name, words[name] + then.get(name, "")) for name in SAMPLERS]


def _components(table: Mapping[str, type[Any]]) -> Entries:
    return [(kind, f"{_first_line(cls)} Keys: {', '.join(_keys(cls))}.") for kind, cls in table.items()]


def _keys(cls: type[Any]) -> list[str]:
    """The fields of a component as a study writes them; those without a default are needed."""
    return [f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in dataclasses.fields(cls)]


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0].removeprefix("Return ")


_LISTS: dict[str, Callable[[], Entries]] = {
    "models": _models,
    "scenarios": _scenarios,
    "attacks": _attacks,
    "defenses": _defenses,
    "triggers": _triggers,
    "schedules": _schedules,
    "spaces": _spaces,
    "presets": _presets,
    "sources": _sources,
    "samplers": _samplers,
}
