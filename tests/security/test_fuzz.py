"""Whatever is done to a good file, it gives a valid object or `BadInput`: two hundred files for each loader here.

`make fuzz` opens more than 100,000; what came of that lies in `results/fuzz.json`.
"""

import json
from pathlib import Path

import pytest

from tests.security.fuzz import RESULT, fuzz
from tests.security.loaders import LOADERS, Bench

EVERYDAY = 200


@pytest.mark.parametrize("name", LOADERS)
def test_a_bent_file_is_a_valid_object_or_refused(tmp_path: Path, name: str) -> None:
    counts = fuzz(name, EVERYDAY, 0, tmp_path / name)
    assert counts["accepted"] + counts["refused"] == counts["inputs"] >= EVERYDAY // 2


@pytest.mark.parametrize("name", LOADERS)
def test_the_good_files_are_good(tmp_path: Path, name: str) -> None:
    bench = Bench(LOADERS[name], tmp_path / name)
    for path, content in bench.good.items():
        bench.open(path, content)
    assert bench.good


def test_the_long_run_was_long_and_both_took_and_refused() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["inputs"] >= 100_000
    assert set(result["loaders"]) == set(LOADERS)
    assert all(min(each["accepted"], each["refused"]) > 0 for each in result["loaders"].values())
