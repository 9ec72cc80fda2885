"""The cells of the paper's figures: which studies they are, and the steps of one cell, each kept in files."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from raybd import gate as gates
from raybd.artifacts import CARD, NothingFeasible, Study, Suspect
from raybd.defenses import Defense, reference
from raybd.evaluation.assess import Subject, examine
from raybd.evaluation.twin import check_twin
from raybd.registry import BadInput, as_json, describe, digest_of, read_json, revive
from raybd.search.records import Job, TrialRecord
from raybd.seeds import derive
from raybd.settings import StudySettings, parse_study
from raybd.stages import preparation, searching, selecting, suspects
from raybd.stages.assessing import subject_of
from raybd.stages.execution import LocalExecutor
from raybd.stages.jobs import run_kept
from raybd.weights import load_into
from tests.benchmarks.twins import kept_twin

Say = Callable[[str], None]
CLEAN_IMAGES = 1000
"""5 % of the 20,000 training images."""
SELECTION_IMAGES = 2000
MAX_ASR = 0.05
"""Up to this ASR a backdoor counts as removed: the limit of search, gate and goals."""
FIXED = {"head": "fine_tuning:head", "fine_tuning": "fine_tuning", "paper": "super_fine_tuning"}
"""Per row the reference it shows; a head is trained alone only where the model is put under another task."""
SEEDS = {"head": 1, "fine_tuning": 1, "paper": 3, "tuned": 3}
"""Fresh seeds per row; conventional fine-tuning takes 100 epochs, ten times as long as the others."""

DATA: dict[str, dict[str, Any]] = {
    "fashion_mnist": {
        "max_accuracy_drop": 0.02,
        "epochs": 15,
        "attacks": {"low_frequency": {"strength": 20}, "label_consistent": {"epsilon": 16}},
    },
    "cifar10": {
        "max_accuracy_drop": 0.05,
        "epochs": 25,
        "attacks": {
            "low_frequency": {"strength": 48},
            "wanet": {"s": 1.0},
            "label_consistent": {"epsilon": 16},
            "adaptive_blend": {"poison_ratio": 0.05},
        },
    },
}
"""Per data set: the accuracy that a cure may cost, epochs of the attacker, and what an attack needs only here."""
AUGMENT = {"crop": 2, "flip": True}

ATTACKS: dict[str, dict[str, Any]] = {
    "badnets": {},
    "blended": {},
    "low_frequency": {},
    "wanet": {},
    "input_aware": {},
    "sig": {"poison_ratio": 0.08},
    "label_consistent": {"poison_ratio": 0.08},
    "adaptive_blend": {"poison_ratio": 0.01},
    "trojan": {},
}
"""The attacks on a standalone model, at 10 % poisoning unless said otherwise, and what is set beside their defaults."""
PAPERS = ("badnets", "blended", "low_frequency", "wanet", "input_aware")
"""Those of the paper, which are also defended against; of the others only the undefended figures are taken."""


def study(data: str, attack: str, images: Path, *, trials: int, space: str = "standalone_short") -> StudySettings:
    """Return the study of a cell; `images` is the folder of DATA.npz."""
    case = DATA[data]
    mapping = {
        "name": f"{data}-{attack}",
        "scenario": "standalone",
        "model": {"name": "small_resnet"},
        "attack": {"kind": attack, "target_label": 0, **ATTACKS[attack], **case["attacks"].get(attack, {})},
        "training": {"epochs": case["epochs"], "lr": 0.1, "batch_size": 128},
        "data": {
            "source": f"{data}.npz",
            "clean_set": {"from": "train", "size": CLEAN_IMAGES},
            "selection": {"from": "test", "size": SELECTION_IMAGES},
        },
        "augment": AUGMENT,
        "space": space,
        "search": {"trials": trials, "max_accuracy_drop": case["max_accuracy_drop"]},
        "gate": {
            "max_attack_success_rate": MAX_ASR,
            "max_accuracy_drop": case["max_accuracy_drop"],
            "max_class_accuracy_drop": 0.25,
            "max_membership_auc_rise": None,
        },
        "resources": {"precision": "bf16", "executor": "local"},
    }
    return parse_study(mapping, folder=images)


def kept(settings: StudySettings, home: Path) -> Suspect | None:
    """Return the suspect of a cell if it lies in `home`.

    Raises:
        BadInput: if what lies there was planted by another attack or training.
    """
    if not (home / CARD).is_file():
        return None
    suspect = Suspect.load(home, preparation.bench(settings, home))
    for key, wanted in (("attack", describe(settings.attack)), ("training", as_json(settings.training))):
        if suspect.facts[key] != wanted:
            raise BadInput(f"{home}: planted with {key} {suspect.facts[key]}, not {wanted}; move it away")
    return suspect


def plant(settings: StudySettings, home: Path, twins: Path) -> Suspect:
    """Plant the suspect of a cell into `home`.

    Attacks on one data set share the never-poisoned twin in `twins`: whatever makes it is the same.

    Raises:
        NoBackdoor: if the twin obeys the trigger too.
        BadInput: if the attack cannot be carried out.
    """
    ready = preparation.bench(settings)
    attacker = suspects.workshop(settings, ready)
    suspects.check_injection(settings, ready, attacker)
    kept_twin(attacker, suspects.injection_seed(settings), twin_file(settings, twins))
    return suspects.injected(settings, ready, attacker).save(home)


def twin_file(settings: StudySettings, twins: Path) -> Path:
    """Return where the never-poisoned twin of a cell lies, by all that makes it."""
    made_of = ("scenario", "model", "training", "augment", "data", "upstream", "resources")
    whole = settings.resolved()
    return twins / f"{digest_of({name: whole[name] for name in made_of})[:16]}.safetensors"


def kept_or_planted(settings: StudySettings, home: Path, twins: Path) -> Suspect:
    """Return the suspect of a cell, planted again where it is gone."""
    return kept(settings, home) or plant(settings, home, twins)


def undefended(suspect: Suspect) -> dict[str, Any]:
    """Return the rows of suspect and twin on test, and the twin's check there."""
    assert suspect.twin is not None
    view = suspect.test_view()
    rows = examine(view, {"suspect": Subject(states=(suspect.shipped,)), "twin": Subject(states=(suspect.twin,))})
    twin = view.architecture.build(0)
    load_into(twin, suspect.twin)
    return {
        "rows": {name: as_json(seen.row) for name, seen in rows.items()},
        "twin_check": as_json(check_twin(twin, view.test, view.trigger, view.compute.exact())),
        "training_seconds": suspect.facts["training_seconds"],
        "poisoned": suspect.card()["poisoned"],
        "upstream": suspect.facts.get("upstream"),
        "target_label": view.trigger.target_label,
    }


def defended(
    settings: StudySettings, suspect: Suspect, home: Path, say: Say, *, rows: Collection[str] = tuple(FIXED)
) -> dict[str, Any]:
    """Search, select, run the references among `rows` and return every row on test; what is done is kept in `home`."""
    executor = LocalExecutor(preparation.search_view(suspect), settings)
    found = _search(settings, suspect, home / "search", executor, say)
    tuned = _tuned(settings, suspect, found, home / "select", executor)
    wanted = [row for row in rows if row != "head" or settings.victim.downstream]
    defenses = {**{row: reference(FIXED[row]) for row in wanted}, "tuned": tuned}
    return {
        "rows": measured(suspect, defenses, home / "rows", executor, say),
        "feasible_trials": sum(record["feasible"] for record in found.records),
        "met_the_gate_on_selection": (home / "select" / CARD).is_file(),
        "search_seconds": found.seconds,
        "trials": [_brief(record) for record in found.records],
    }


def measured(
    suspect: Suspect, defenses: Mapping[str, Defense], home: Path, executor: LocalExecutor, say: Say
) -> dict[str, Any]:
    """Return the rows on test of the suspect and of each defense, run with fresh seeds and kept in `home`."""
    subjects = {"suspect": Subject(states=(suspect.shipped,))}
    for name, defense in defenses.items():
        say(f"{home.parent.name}: {name}")
        jobs = jobs_of(defense, home / name, SEEDS[name])
        subjects[name] = subject_of(defense, jobs, run_kept(jobs, executor))
    return {name: as_json(seen.row) for name, seen in examine(suspect.test_view(), subjects).items()}


def _search(settings: StudySettings, suspect: Suspect, folder: Path, executor: LocalExecutor, say: Say) -> Study:
    if (folder / CARD).is_file():
        done = Study.load(folder)
        if len(done.records) >= settings.search.trials:
            return done

    def told(record: TrialRecord) -> None:
        rates = [rate.rate if rate else float("nan") for rate in (record.clean_accuracy, record.attack_success_rate)]
        say(f"{settings.name}: trial {record.number} C-Acc {rates[0]:.3f} ASR {rates[1]:.3f}")

    return searching.search(
        settings,
        suspect,
        folder=folder,
        trials=settings.search.trials,
        extend=0,
        executor=executor,
        on_trial=told,
        on_progress=None,
        on_start=None,
    )


def _tuned(settings: StudySettings, suspect: Suspect, found: Study, folder: Path, executor: LocalExecutor) -> Defense:
    """The candidate's setting, or where nothing meets the gate that of the trial nearest to it."""
    space = settings.load_space()
    if (folder / CARD).is_file():
        return space.build(read_json(folder / CARD)["setting"])
    try:
        card = selecting.select(settings, suspect, found, folder=folder, executor=executor).card
    except NothingFeasible:
        records = [revive(TrialRecord, record) for record in found.records]
        whole = [r for r in records if r.state == "complete" and not r.collapsed]
        nearest = gates.nearest(whole, settings.gate, 1)
        if not nearest:
            raise BadInput(f"{settings.name}: every trial collapsed; there is nothing to show") from None
        return space.build(nearest[0].setting)
    return space.build(card["setting"])


def jobs_of(defense: Defense, folder: Path, seeds: int) -> list[Job]:
    """Return the runs of a defense with fresh seeds, kept in `folder`."""
    weights = [folder / str(i) / "weights.safetensors" for i in range(seeds)]
    return [Job(defense=defense, seed=derive(0, "row", i), weights=path) for i, path in enumerate(weights)]


def _brief(record: dict[str, Any]) -> dict[str, Any]:
    """A trial as the results keep it: its setting and its figures on selection."""
    rates = {name: record[name] and record[name]["rate"] for name in ("clean_accuracy", "attack_success_rate")}
    drop = record["accuracy_drop"] and record["accuracy_drop"]["value"]
    return {"setting": record["setting"], **rates, "accuracy_drop": drop, "collapsed": record["collapsed"]}
