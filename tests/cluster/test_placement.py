"""Where trials and jobs go among three machines, where one would hold them all, is what `placement` says."""

from collections import Counter
from pathlib import Path

import pytest

from tests.cluster import scripts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCRIPT = """
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from raybd.search import tuner
from tests.search.fakes import open_decider, tiny_view
from tests.search.test_tuner import with_side_effect


def where():
    return ray.get_runtime_context().get_node_id()


def met(file):
    # Who is first waits for the others: no worker is to do the jobs of all.
    file.touch()
    while len(list(file.parent.iterdir())) < 3:
        time.sleep(0.1)
    return where()


class Note:
    def __init__(self, file):
        self.file = file

    def __call__(self):
        import time
        time.sleep(0.5)
        with open(self.file, "a") as file:
            file.write(f"{where()}\\n")


if __name__ == "__main__":
    folder, placement = Path(sys.argv[1]), sys.argv[2]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    try:
        with (
            tuner.connected(address=cluster.address, workers=3, placement=placement) as workers,
            open_decider(folder / "search", trials=6) as decider,
        ):
            objectives = with_side_effect(Note(str(folder / "trials.txt")))
            workers.run(tiny_view(), decider, trials=folder / "search" / "trials", objectives=objectives)
            (folder / "met").mkdir()
            found = workers.map_calls(met, [folder / "met" / str(n) for n in range(3)])
            (folder / "jobs.txt").write_text("\\n".join(found))
    finally:
        cluster.shutdown()
"""


def machines(file: Path) -> list[int]:
    return sorted(Counter(file.read_text(encoding="utf-8").split()).values())


@pytest.mark.parametrize(("placement", "used"), [("pack", 1), ("spread", 3)])
def test_three_workers_take_one_machine_packed_and_three_spread(tmp_path: Path, placement: str, used: int) -> None:
    scripts.run(SCRIPT, tmp_path, placement, timeout=500)
    assert len(machines(tmp_path / "trials.txt")) == used
    assert len(machines(tmp_path / "jobs.txt")) == used
