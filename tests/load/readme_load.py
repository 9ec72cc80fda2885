"""The README's sentences on load, from the results."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def block() -> str:
    """Return what was measured, a paragraph for each result that is there."""
    told = {"trials": _trials, "tracking_backlog": _backlog}
    paths = {RESULTS / f"{name}.json": word for name, word in told.items()}
    found = [word(json.loads(path.read_text(encoding="utf-8"))) for path, word in paths.items() if path.is_file()]
    return "\n\n".join(found)


def _trials(found: dict[str, Any]) -> str:
    memory = [row["driver_rss_mb"] for row in found["segments"]]
    growth = (memory[-1] - memory[0]) / max(1, len(memory) - 1)
    per_trial = 1000 * growth / found["segments"][0]["trials"]
    return (
        f"`make test-load`, `{found['command']}`: trials that sleep, on simulated slots of one machine, through the "
        f"product's own search in {len(memory)} segments: {found['total_seconds']:,.0f} s, "
        f"{found['ratio_to_ideal']:.2f} times the ideal {found['ideal_seconds']:,.0f} s, "
        f"{found['workers_started_seconds']:.0f} s of it to start workers. The driver's memory grows with the trials: "
        f"{', '.join(f'{mb:,.0f}' for mb in memory)} MB at the segments' ends, by {growth:.0f} MB a segment or "
        f"{per_trial:.0f} KB a trial, {found['driver_rss_last_to_first']:.2f} times in all. All workers start anew "
        "with each segment, so that Tune's trials are let go; the study stays in memory (about 10 KB a trial), and "
        "what else stays was not found."
    )


def _backlog(found: dict[str, Any]) -> str:
    cpu = {name: 1000 * seconds for name, seconds in found["cpu_seconds_per_trial"].items()}
    late = found["seconds_until_all_were_written"] - found["arriving_seconds"]
    return (
        f"`{found['command']}`: the trials of 64 such workers ({found['rate']:g} a second) recorded through `mlflow "
        f"server` on PostgreSQL: {found['behind_when_the_last_arrived']} of {found['trials']:,} behind when the last "
        f"arrived, all written {late:.1f} s later; CPU per trial {cpu['driver']:.0f} ms in the driver, "
        f"{cpu['server_and_database']:.0f} ms in server and database ({found['machine']['cores']} cores, "
        f"load average {found['machine']['load_average'][0]:.1f})."
    )
