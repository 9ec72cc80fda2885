"""The stage `assess`: run the references, look at the test split once, and let the gate judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.artifacts import Assessment, Candidate, Suspect, test_looks
from raybd.data import ImageSet
from raybd.defenses import DEFENSES, Defense, FineTuning, reference
from raybd.evaluation.assess import Examined, Subject, TestView, examine, membership
from raybd.evaluation.metrics import Difference, Rate, class_drops
from raybd.evaluation.reinjection import reinject
from raybd.evaluation.sequela import POISONED_SAMPLES, Reinjection, Sequela
from raybd.gate import Evidence, Gate
from raybd.registry import BadInput, as_json, build, describe, read_json, revive, write_json
from raybd.search.records import Job, Outcome
from raybd.seeds import derive
from raybd.stages.execution import Executor
from raybd.weights import State, load_into, load_weights, weights_digest

OUTCOME = "outcome.json"
REINJECTION_STEPS = 50
REINJECTION_LR = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class ReinjectionTask:
    """One re-injection: a model, its share of the poison, and where success is read."""

    view: TestView
    state: State
    clean_set: ImageSet
    poisoned_samples: int
    batch_size: int
    seed: int


def assess(
    suspect: Suspect,
    candidate: Candidate,
    *,
    references: Sequence[str],
    gate: Gate,
    seed: int,
    folder: Path,
    executor: Executor,
) -> Assessment:
    """Measure suspect, references and candidate on the test split; every figure of the report comes from here.

    Args:
        suspect: the model as it came.
        candidate: the sanitized model that would ship.
        references: names of published settings to run beside it, on the same clean set, with the same seeds.
        gate: the limits.
        seed: of the re-injection.
        folder: where the references' weights are kept, so that an interrupted assessment goes on.
        executor: runs the trainings.
    """
    defense = build(DEFENSES, candidate.card["defense"], where="select/card.json")
    defenses: dict[str, Defense] = {name: reference(name) for name in references}
    subjects = {"suspect": Subject(states=(suspect.state,)), "candidate": _candidate_subject(candidate)}
    subjects |= _run_references(defenses, candidate.card["seeds"], folder / "references", executor)
    twin = {} if suspect.twin is None else {"never_poisoned": Subject(states=(suspect.twin,))}
    same_images = _same_images(defense, defenses, subjects, candidate, folder, executor)
    view = suspect.test_view()
    examined = examine(view, subjects | twin)
    read = membership(
        view,
        subjects,
        {name: examined[name] for name in subjects},
        trained_on=defense.training_images(suspect.bench.splits.clean_set, suspect.bench.seed),
        same_images=same_images,
    )
    curves = _reinjection(view, subjects | twin, suspect, seed, defense, executor)
    rise = read.suspect_members.rise if read.suspect_members is not None else None
    rows = {name: seen.row for name, seen in examined.items()}
    return Assessment(
        suspect=rows["suspect"],
        references={name: rows[name] for name in references},
        selected=rows["candidate"],
        never_poisoned=rows.get("never_poisoned"),
        sequela=Sequela(membership=read, reinjection=curves),
        checks=gate.judge(_evidence(examined, rise)),
        membership_auc_rise=rise,
        test_looks=test_looks(suspect.folder) if suspect.folder else 1,
        weights_digest=weights_digest(candidate.states[candidate.shown]),
    )


def _evidence(examined: Mapping[str, Examined], rise: Difference | None) -> Evidence:
    """What the gate judges: the very weights that ship."""
    candidate = examined["candidate"]
    assert candidate.row.accuracy_drop is not None
    return Evidence(
        attack_success_rate=candidate.row.attack_success_rate,
        accuracy_drop=candidate.row.accuracy_drop,
        class_drops=class_drops(examined["suspect"].readings, candidate.readings),
        membership_auc_rise=rise,
    )


def _candidate_subject(candidate: Candidate) -> Subject:
    card = candidate.card
    return Subject(
        states=candidate.states,
        shown=candidate.shown,
        setting=card["defense"],
        training_seconds=card["training_seconds"],
        images=card["images"],
    )


def _run_references(
    defenses: Mapping[str, Defense], seeds: Sequence[int], folder: Path, executor: Executor
) -> dict[str, Subject]:
    """Every reference with every seed; what an earlier, interrupted assessment finished is taken from disk."""
    jobs = {
        (name, i): Job(defense=d, seed=s, weights=folder / _plain(name) / str(i) / "weights.safetensors")
        for name, d in defenses.items()
        for i, s in enumerate(seeds)
    }
    _run_missing(list(jobs.values()), executor)
    return {name: _subject(defense, [jobs[name, i] for i in range(len(seeds))]) for name, defense in defenses.items()}


def _plain(name: str) -> str:
    return name.replace(":", "-")


def _identity(job: Job) -> dict[str, Any]:
    return {"defense": describe(job.defense), "seed": job.seed}


def _home(job: Job) -> Path:
    assert job.weights is not None
    return job.weights.parent


def _run_missing(jobs: Sequence[Job], executor: Executor) -> None:
    todo = [job for job in jobs if not _done(job)]
    for job, outcome in zip(todo, executor.map_jobs(todo, on_job=_keep), strict=True):
        if outcome.state == "failed":
            raise RuntimeError(f"reference {describe(job.defense)} with seed {job.seed} failed: {outcome.error}")


def _keep(job: Job, outcome: Outcome) -> None:
    """Write down a training as soon as it has ended: an assessment that is killed goes on from there."""
    if outcome.state != "failed":
        write_json(_home(job) / OUTCOME, {**_identity(job), "outcome": as_json(outcome)})


def _done(job: Job) -> bool:
    path = _home(job) / OUTCOME
    if not path.is_file():
        return False
    kept = read_json(path)
    return bool({k: kept[k] for k in ("defense", "seed")} == as_json(_identity(job)))


def _subject(defense: Defense, jobs: Sequence[Job]) -> Subject:
    """One line of the table; shown is the seed whose ASR on selection is the median."""
    outcomes = [revive(Outcome, read_json(_home(job) / OUTCOME)["outcome"]) for job in jobs]
    order = sorted(range(len(jobs)), key=lambda i: outcomes[i].attack_success_rate.rate)
    shown = order[len(order) // 2]
    return Subject(
        states=tuple(load_weights(_home(job) / "weights.safetensors") for job in jobs),
        shown=shown,
        setting=describe(defense),
        training_seconds=outcomes[shown].training_seconds,
        images=outcomes[shown].images,
    )


def _same_images(
    defense: Defense,
    defenses: Mapping[str, Defense],
    subjects: Mapping[str, Subject],
    candidate: Candidate,
    folder: Path,
    executor: Executor,
) -> Subject | None:
    """Conventional fine-tuning on the very images the candidate was trained on; None if it is no reference."""
    name = next((n for n, d in defenses.items() if isinstance(d, FineTuning) and d.scope == "whole"), None)
    if name is None or defense.clean_fraction == 1:
        return subjects.get(name) if name else None
    whole = describe(defenses[name])
    smaller = build(DEFENSES, {**whole, "clean_fraction": defense.clean_fraction}, where="references")
    return _run_references({"same_images": smaller}, candidate.card["seeds"][:1], folder, executor)["same_images"]


def _reinjection(
    view: TestView,
    subjects: Mapping[str, Subject],
    suspect: Suspect,
    seed: int,
    defense: Defense,
    executor: Executor,
) -> Reinjection:
    """The curves of all models; at most as many poisoned samples as the clean set can give."""
    clean_set = suspect.bench.splits.clean_set
    available = int((suspect.trigger.goal_labels(clean_set.labels) != clean_set.labels).sum())
    counts = tuple(k for k in POISONED_SAMPLES if k <= available)
    batch_size = min(getattr(defense, "batch_size", 128), len(clean_set))
    tasks = [
        ReinjectionTask(
            view=view,
            state=subject.states[subject.shown],
            clean_set=clean_set,
            poisoned_samples=k,
            batch_size=batch_size,
            seed=derive(seed, "reinjection"),
        )
        for subject in subjects.values()
        for k in counts
    ]
    rates = list(executor.map_calls(reinject_once, tasks))
    starts = range(0, len(rates), len(counts))
    return Reinjection(
        poisoned_samples=counts,
        steps=REINJECTION_STEPS,
        lr=REINJECTION_LR,
        batch_size=batch_size,
        curves={name: tuple(rates[at : at + len(counts)]) for name, at in zip(subjects, starts, strict=True)},
    )


def reinject_once(task: ReinjectionTask) -> Rate | None:
    """Run one re-injection; a function of the module, so that Ray's workers can call it."""
    task.view.compute.apply()
    model = task.view.architecture.build(0)
    load_into(model, task.state)
    return reinject(
        model,
        task.clean_set,
        task.view.trigger,
        task.view.test,
        poisoned_samples=task.poisoned_samples,
        steps=REINJECTION_STEPS,
        lr=REINJECTION_LR,
        batch_size=task.batch_size,
        compute=task.view.compute,
        seed=task.seed,
    )


def check_ships(assessment: Assessment, candidate: Candidate) -> None:
    """Raise BadInput unless `assessment` judged the very weights of `candidate`."""
    if assessment.weights_digest != weights_digest(candidate.states[candidate.shown]):
        raise BadInput("assess/card.json judged other weights than those in select/: run `raybd assess` again")
