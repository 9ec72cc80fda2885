"""Trials that hold half a GPU go two to each of a cluster's GPUs, and none to its head, which has none."""

import json
from pathlib import Path

import pytest

from tests.cluster import scripts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

TRIALS = 12
SCRIPT = """
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from raybd.search import tuner
from tests.search.fakes import open_decider, tiny_view
from tests.search.test_tuner import with_side_effect


class Note:
    def __init__(self, file):
        self.file = file

    def __call__(self):
        import json, os, time
        import ray
        start = time.time()
        time.sleep(1)
        node, gpus = ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()
        with open(self.file, "a") as file:
            file.write(json.dumps([node, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), start, time.time()]) + "\\n")


if __name__ == "__main__":
    folder, trials = Path(sys.argv[1]), int(sys.argv[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=80 * 2**20)
    try:
        with (
            tuner.connected(address=cluster.address, gpus_per_trial=0.5) as workers,
            open_decider(folder / "search", trials=trials) as decider,
        ):
            (folder / "slots").write_text(str(workers.slots))
            noted = with_side_effect(Note(str(folder / "noted")))
            workers.run(tiny_view(), decider, trials=folder / "search" / "trials", objectives=noted)
    finally:
        cluster.shutdown()
"""


def test_two_trials_share_each_gpu_and_the_head_has_none(tmp_path: Path) -> None:
    scripts.run(SCRIPT, tmp_path, str(TRIALS), timeout=350)
    noted = [json.loads(line) for line in (tmp_path / "noted").read_text(encoding="utf-8").splitlines()]
    assert (tmp_path / "slots").read_text(encoding="utf-8") == "4"
    assert len(noted) >= TRIALS  # a trial may compute its objectives more than once
    assert len({node for node, *_ in noted}) == 2
    assert all(gpus == [0] and visible == "0" for _, gpus, visible, *_ in noted)
    for node, _, _, start, _ in noted:
        at_once = [row for row in noted if row[0] == node and row[3] <= start < row[4]]
        assert len(at_once) <= 2
    assert any(a[0] == b[0] and a is not b and a[3] <= b[3] < a[4] for a in noted for b in noted), "none were shared"
