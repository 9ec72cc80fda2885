"""What the figures allow one to say, in plain sentences that claim no more than the intervals do."""

from dataclasses import dataclass
from typing import Any

from raybd.report.contents import Card, ReportInput
from raybd.report.wording import count, name_of, percent, points, with_interval


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The page's first lines: a word, its tone (`good` | `bad` | `open`), one sentence, and what bears on it."""

    word: str
    tone: str
    sentence: str
    details: tuple[str, ...] = ()


def verdict(run: ReportInput) -> Verdict:
    """Return what became of the run, in one sentence, with the reasons."""
    if run.promotion is not None:
        return _decided(run, run.promotion)
    if run.assessment is not None:
        return _assessed(run, run.assessment)
    if run.selection is not None:
        sentence = (
            f"A setting was chosen (trial {run.selection['number']}), but nothing was measured on the test split."
        )
        return Verdict(word="Not assessed", tone="open", sentence=sentence, details=(run.why_missing("assess"),))
    if run.study is not None:
        return _unselected(run, run.study)
    sentence = "The suspect is described below; no setting has been tried on it."
    return Verdict(word="Not searched", tone="open", sentence=sentence, details=(run.why_missing("search"),))


def _decided(run: ReportInput, promotion: Card) -> Verdict:
    if not promotion["promoted"]:
        return _refused(run, promotion)
    if promotion.get("rolled_back_to") is not None:
        return _rolled_back(run, promotion)
    return _promoted(run, promotion)


def _promoted(run: ReportInput, promotion: Card) -> Verdict:
    moved = f"{promotion['name']} version {promotion['version']} now answers to the alias “{promotion['alias']}”"
    if run.assessment is None:
        sentence = f"{moved}, but no assessment stands here to show why."
        return Verdict(word="Promoted", tone="open", sentence=sentence, details=(run.why_missing("assess"),))
    held = "every limit of the gate held on the bound of its interval, not only on the point"
    if not _effect_shown(run.assessment):
        sentence = f"{moved}, because {held}. But {NO_EFFECT}."
        return Verdict(word="Promoted, no effect shown", tone="open", sentence=sentence, details=_evidence(run))
    return Verdict(word="Promoted", tone="good", sentence=f"{moved}, because {held}.", details=_evidence(run))


def _rolled_back(run: ReportInput, promotion: Card) -> Verdict:
    sentence = (
        f"{promotion['name']} version {promotion['version']} passed the gate and was promoted, but was rolled back "
        f"since: the alias “{promotion['alias']}” was moved to version {promotion['rolled_back_to']}."
    )
    return Verdict(word="Rolled back", tone="bad", sentence=sentence, details=_evidence(run))


def _refused(run: ReportInput, promotion: Card) -> Verdict:
    checks = [c for c in (run.assessment or {}).get("checks", ()) if c["status"] != "passed"]
    told = [check["detail"] for check in checks]
    # The gate's table tells the rest of each check; a reason that is none of them must stand here.
    reasons = [f"{name_of(c['name'])} ({c['status']})" for c in checks]
    reasons += [str(reason) for reason in promotion["refusals"] if reason not in told]
    sentence = f"The gate refused the candidate, and no alias was moved: {'; '.join(reasons)}."
    return Verdict(word="Refused", tone="bad", sentence=sentence, details=_evidence(run))


def _assessed(run: ReportInput, assessment: Card) -> Verdict:
    open_checks = [name_of(c["name"]) for c in assessment["checks"] if c["status"] != "passed"]
    judged = {c["name"] for c in assessment["checks"]}
    # A limit that nothing was judged by is not met.
    open_checks += [name_of(k) for k, v in run.gate.items() if v is not None and k.removeprefix("max_") not in judged]
    if open_checks:
        sentence = f"The candidate was assessed and would be refused: {', '.join(open_checks)} not within the gate."
        return Verdict(word="Would be refused", tone="bad", sentence=sentence, details=_evidence(run))
    sentence = "The candidate was assessed and meets every limit of the gate; it has not been promoted."
    if not _effect_shown(assessment):
        sentence += f" But {NO_EFFECT}."
    details = (*_evidence(run), run.why_missing("promote"))
    return Verdict(word="Not promoted yet", tone="open", sentence=sentence, details=details)


def _unselected(run: ReportInput, study: Card) -> Verdict:
    feasible = sum(r["feasible"] for r in study["records"])
    trials = sum(r["state"] != "failed" for r in study["records"])
    sentence = f"{trials} trials were run, {feasible} within both limits of the search; no candidate came of them."
    details = (run.why_missing("select"),)
    return Verdict(word="No candidate", tone="bad" if not feasible else "open", sentence=sentence, details=details)


NO_EFFECT = (
    "the trigger did not clearly succeed more often on the suspect than on the candidate, so nothing shows that there "
    "was a backdoor to remove, nor that the trigger is the attacker's"
)


def _effect_shown(assessment: Card) -> bool:
    """Whether the candidate's attack success lies under the suspect's on test, interval against interval."""
    before, after = (assessment[key]["attack_success_rate"] for key in ("suspect", "selected"))
    return bool(after["high"] < before["low"])


def _evidence(run: ReportInput) -> tuple[str, ...]:
    if run.assessment is None:
        return ()
    suspect, selected = run.assessment["suspect"], run.assessment["selected"]
    limit = run.gate.get("max_attack_success_rate")
    return (
        trigger_sentence(suspect["attack_success_rate"], selected["attack_success_rate"], limit),
        accuracy_sentence(selected),
    )


def trigger_sentence(before: Card, after: Card, limit: float | None) -> str:
    """Say what happened to the trigger's success, as strongly as the intervals allow and no more."""
    moved = (
        f"The trigger succeeds on {with_interval(after)} of {count(after['n'])} triggered test images; "
        f"on the suspect it was {with_interval(before)}"
    )
    if after["low"] > before["high"]:
        return f"{moved}. The candidate obeys the trigger more than the suspect did."
    if after["high"] >= before["low"]:
        return f"{moved}. The intervals overlap: no effect on the backdoor is shown."
    return f"{moved}. {_against(after, limit)}"


def _against(after: Card, limit: float | None) -> str:
    if limit is None:
        return "The gate sets no limit for it."
    bound = percent(limit)
    if after["high"] <= limit:
        return f"The whole interval lies within the limit of {bound} %."
    if after["low"] > limit:
        return f"The whole interval lies above the limit of {bound} %: the backdoor still works."
    return f"The interval reaches over the limit of {bound} %: that the backdoor is held under it is not shown."


def accuracy_sentence(selected: Card) -> str:
    """Say what the candidate pays in clean accuracy, and whether that differs from nothing."""
    drop = selected["accuracy_drop"]
    now = f"Clean accuracy is {with_interval(selected['clean_accuracy'])}"
    if drop is None:
        return f"{now}; its difference from the suspect's was not measured."
    paired = f"{points(drop)} points, paired on the same {count(drop['n'])} images"
    if drop["low"] > 0:
        return f"{now}, a loss of {paired}."
    if drop["high"] < 0:
        return f"{now}, a gain: the loss is {paired}."
    return f"{now}; no loss is shown, none is ruled out: {paired}."


KNOWLEDGE = {
    "planted": (
        "We planted this backdoor, and every trial was measured with the very trigger.",
        (
            "This is an oracle: no defender has it. The figures show that settings exist which suppress this trigger "
            "on this model. They do not show that a defender who does not know the trigger would find them, and they "
            "say nothing about any other backdoor."
        ),
    ),
    "given": (
        "The trigger was supplied with the study, and every trial was measured with it.",
        (
            "This is an oracle, and the result is worth as much as the trigger is right. If the attacker's trigger "
            "differs from the one supplied, the attack success rates below are not the attacker's. Nothing here speaks "
            "about a second backdoor that nobody supplied."
        ),
    ),
    "canary": (
        "Known triggers, planted in a copy of the suspect, stood in for the unknown one.",
        (
            "The search never saw the attacker's trigger. The figures carry over to it only so far as it behaves like "
            "the canaries."
        ),
    ),
    "none": (
        "No trigger is known.",
        "No attack success rate can be measured, so nothing here shows whether a backdoor is present or gone.",
    ),
}
"""What steered the search -> what that is, and what it means for trust."""


def trust(run: ReportInput) -> dict[str, Any]:
    """Return what steered the search and what that means for trust."""
    word = str(run.suspect_card["trigger_knowledge"])
    fact, meaning = KNOWLEDGE.get(word, ("", "This page has no words for that; judge the figures with care."))
    searched = run.study is not None
    return {
        "title": "What steered the search" if searched else "Trigger knowledge",
        "word": word,
        "oracle": word in {"planted", "given"},
        "fact": fact if searched else "",
        "meaning": meaning,
    }


def warnings(run: ReportInput) -> list[str]:
    """Return what a reader must know before trusting a figure: the suspect's warnings and the assessment's."""
    found = [str(text) for text in run.suspect_card.get("warnings") or ()]
    assessment = run.assessment
    if assessment is None:
        return found
    looks = assessment.get("test_looks") or 0
    if looks > 1:
        found.append(
            f"The test split has been looked at {looks} times for this suspect. Each look before a new choice "
            "makes the figures a little kinder than they should be."
        )
    if assessment["selected"]["collapsed"]:
        found.append("The candidate is a collapsed model: it answers little better than chance.")
    undecided = [name_of(c["name"]) for c in assessment["checks"] if c["status"] == "undecided"]
    if undecided:
        found.append(f"Too few samples to decide: {', '.join(undecided)}. Undecided counts as a refusal.")
    return found
