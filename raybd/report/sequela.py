"""What else the cure changed, in words, tables and figures; and why a reading is missing where it is."""

from typing import Any

from raybd.report import assessment_figures
from raybd.report.contents import Card
from raybd.report.style import Figure, in_reading_order
from raybd.report.wording import bracket_plain, count, decimal, name_of, percent, with_interval

READINGS = {
    "suspect_members": (
        "Members of the suspect's training set",
        (
            "How well a stranger could tell the images that the suspect was trained on from images it never saw. The "
            "gate judges the rise of this AUC: a cure must not give the original training data away."
        ),
        (
            "Not read: which images the suspect was trained on is not known, or the candidate collapsed. The gate can "
            "set no limit on it then."
        ),
    ),
    "trained_on": (
        "Images the candidate was trained on",
        (
            "How well a stranger could tell the defender's own clean images from images never seen: the defense's own "
            "cost in privacy, beside conventional fine-tuning on the very same images. The gate does not judge it."
        ),
        "Not read: conventional fine-tuning was not run on the same images, or a model collapsed.",
    ),
}
"""The two readings -> title, what it means, why it may be missing. They answer different questions: never mixed."""


OTHER_TASK = (
    "Not read: the suspect was trained on images of another task, and none of the user's are among them. The gate sets "
    "no limit on it."
)
"""Why the suspect's members are not read where it came from another task."""


def membership_sections(sequela: Card | None, *, other_task: bool = False) -> list[dict[str, Any]]:
    """Return both membership readings: title, meaning, and either table, rise and figure or why there is none.

    `other_task` says that the suspect was trained on another task's images.
    """
    readings = (sequela or {}).get("membership") or {}
    missing = {key: why for key, (_, _, why) in READINGS.items()} | (
        {"suspect_members": OTHER_TASK} if other_task else {}
    )
    return [_reading(key, readings.get(key), missing[key]) for key in READINGS]


def _reading(key: str, reading: Card | None, why_missing: str) -> dict[str, Any]:
    title, meaning, _ = READINGS[key]
    if reading is None or not any(reading["rows"].values()):
        return {"key": key, "title": title, "meaning": meaning, "missing": why_missing}
    return {
        "key": key,
        "title": title,
        "meaning": meaning,
        "missing": None,
        "members_are": reading["members_are"],
        "members": count(reading["members"]),
        "non_members": count(reading["non_members"]),
        "rows": [_membership_row(name, row) for name, row in in_reading_order(reading["rows"]).items()],
        "rise": rise_sentence(reading),
        "figure": assessment_figures.membership(reading),
        # The rate is left out where too few non-members allow it to be read, not because it is zero.
        "few": any(row and row["tpr_at_1_fpr"] is None for row in reading["rows"].values()),
    }


def _membership_row(name: str, row: Card | None) -> dict[str, str]:
    if row is None:
        return {"name": name_of(name), "auc": "collapsed: no reading", "interval": "", "tpr": ""}
    tpr = row["tpr_at_1_fpr"]
    return {
        "name": name_of(name),
        "auc": decimal(row["auc"], 3),
        "interval": bracket_plain(row),
        "tpr": "too few" if tpr is None else percent(tpr),
    }


def rise_sentence(reading: Card) -> str:
    """Say by how much the AUC rose, and whether that differs from nothing."""
    rise = reading["rise"]
    compared = " minus ".join(name_of(part) for part in str(reading["compared"]).split(" minus "))
    if rise is None:
        return f"The difference ({compared}) was not read: one of the two models collapsed."
    figure = f"Difference in AUC ({compared}): {decimal(rise['value'], 3)} {bracket_plain(rise)}"
    if rise["low"] > 0:
        return f"{figure}. The candidate gives more away."
    if rise["high"] < 0:
        return f"{figure}. The candidate gives less away."
    return f"{figure}. Neither a rise nor a fall is shown."


def reinjection_section(sequela: Card | None) -> dict[str, Any] | None:
    """Return the re-injection curves with their table and settings; None where they were not measured."""
    study = (sequela or {}).get("reinjection")
    if not study:
        return None
    figure: Figure = assessment_figures.reinjection(study)
    return {
        "setting": f"{count(study['steps'])} steps at learning rate {study['lr']:g}, batch size {study['batch_size']}",
        "counts": study["poisoned_samples"],
        "rows": [
            {
                "name": name_of(name),
                "rates": ["diverged" if rate is None else with_interval(rate) for rate in rates],
            }
            for name, rates in in_reading_order(study["curves"]).items()
            if rates
        ],
        "figure": figure,
    }
