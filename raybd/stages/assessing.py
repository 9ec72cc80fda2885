"""The stage `assess`: run the references, look at the test split once, and let the gate judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raybd.artifacts import Assessment, Candidate, Suspect, test_looks
from raybd.data import ImageSet
from raybd.defenses import DEFENSES, Defense, FineTuning, reference
from raybd.evaluation.assess import Examined, Subject, TestView, examine, membership
from raybd.evaluation.metrics import Difference, Rate, class_drops
from raybd.evaluation.reinjection import reinject
from raybd.evaluation.sequela import POISONED_SAMPLES, Reinjection, Sequela
from raybd.gate import Evidence, Gate
from raybd.registry import BadInput, build, describe
from raybd.search.records import Job, Outcome
from raybd.seeds import derive
from raybd.stages.execution import Executor
from raybd.stages.jobs import OnDone, run_kept
from raybd.weights import State, load_into, load_weights, weights_digest

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
    on_done: OnDone | None = None,
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
        on_done: counts those of the references.
    """
    defense = build(DEFENSES, candidate.card["defense"], where="select/card.json")
    defenses: dict[str, Defense] = {name: reference(name) for name in references}
    subjects = {"suspect": Subject(states=(suspect.shipped,)), "candidate": _candidate_subject(candidate)}
    subjects |= _run_references(defenses, candidate.card["seeds"], folder / "references", executor, on_done)
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
    defenses: Mapping[str, Defense],
    seeds: Sequence[int],
    folder: Path,
    executor: Executor,
    on_done: OnDone | None = None,
) -> dict[str, Subject]:
    """Every reference with every seed; what an earlier, interrupted assessment finished is taken from disk."""
    jobs = {
        (name, i): Job(defense=d, seed=s, weights=folder / _plain(name) / str(i) / "weights.safetensors")
        for name, d in defenses.items()
        for i, s in enumerate(seeds)
    }
    outcomes = dict(zip(jobs, run_kept(list(jobs.values()), executor, on_done), strict=True))
    every = range(len(seeds))
    return {
        name: subject_of(defense, [jobs[name, i] for i in every], [outcomes[name, i] for i in every])
        for name, defense in defenses.items()
    }


def _plain(name: str) -> str:
    return name.replace(":", "-")


def subject_of(defense: Defense, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> Subject:
    """Return the runs of a defense as one line of the table, which shows the seed of the median ASR on selection.

    Equal ASRs are told apart by accuracy.

    Raises:
        RuntimeError: if one of the runs failed.
    """
    found = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.attack_success_rate is None or outcome.accuracy_drop is None:
            raise RuntimeError(f"reference {describe(defense)} with seed {job.seed} failed: {outcome.error}")
        found.append((outcome.attack_success_rate.rate, outcome.accuracy_drop.value))
    shown = sorted(range(len(jobs)), key=lambda i: found[i])[len(jobs) // 2]
    return Subject(
        states=tuple(load_weights(job.weights) for job in jobs if job.weights is not None),
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
    goals = suspect.trigger.goal_labels(clean_set.labels, clean_set.classes)
    available = int((goals != clean_set.labels).sum())
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
