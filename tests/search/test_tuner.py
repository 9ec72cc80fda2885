"""Claims about the Ray executor: nothing is lost or counted twice, whoever is killed, and results are local's."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import ray

from raybd.defenses import Defense, FineTuning
from raybd.registry import BadInput, Outage
from raybd.search import local, tuner
from raybd.search.opening import JOURNAL
from raybd.search.records import OBJECTIVES, Job, Objective, Stopping, front_of
from raybd.search.searcher import TooManyFailures
from raybd.search.tuner import pool, tuners
from tests.search.fakes import facts, open_decider, tiny_view

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def view():
    return tiny_view()


@pytest.fixture(scope="module")
def workers():
    with tuner.connected(workers=2) as joined:
        yield joined


def with_side_effect(effect):
    """The usual objectives; computing one of them also calls `effect`, in the process that runs the trial."""

    def attack_success_rate(readings):
        effect()
        return readings.attack_success_rate.rate

    disturbed = Objective(direction="minimize", of=attack_success_rate)
    return {**OBJECTIVES, "attack_success_rate": disturbed}


def once_per(folder, act):
    """An effect that happens once in all processes together: who creates the marker does it."""
    marker = str(folder / "done-once")

    def effect():
        import os

        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        act()

    return effect


def die():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def states(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return [t.state.name for t in optuna.load_study(study_name="study", storage=storage).trials]


def test_a_search_on_one_worker_gives_the_settings_and_figures_of_a_local_one(workers, view, tmp_path):
    with open_decider(tmp_path / "local", trials=6) as decider:
        local.run(view, decider, trials=tmp_path / "local" / "trials")
        alone = facts(decider.records())
    one = dataclasses.replace(workers, slots=1)
    handler = signal.getsignal(signal.SIGINT)
    with open_decider(tmp_path / "ray", trials=6) as decider:
        one.run(view, decider, trials=tmp_path / "ray" / "trials")
        assert facts(decider.records()) == alone
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C works after a search as before"
    with open_decider(tmp_path / "ray", trials=6) as decider:
        assert decider.finished
    assert not (tmp_path / "ray" / "ray").exists(), "Ray's own files do not stay in the run folder"


def test_trials_given_up_at_a_rung_are_the_same_on_ray_as_in_process(workers, view, tmp_path):
    stopping = Stopping(halving=True)
    with open_decider(tmp_path / "local", trials=8) as decider:
        local.run(view, decider, trials=tmp_path / "local" / "trials", stopping=stopping)
        alone = facts(decider.records())
    assert {r.state for r in alone} == {"complete", "pruned"}
    one = dataclasses.replace(workers, slots=1)
    with open_decider(tmp_path / "ray", trials=8) as decider:
        one.run(view, decider, trials=tmp_path / "ray" / "trials", stopping=stopping)
        assert facts(decider.records()) == alone


@pytest.mark.slow
def test_a_search_uses_every_worker_in_segments_and_reports(workers, view, tmp_path):
    seen, stretches = [], []
    with open_decider(tmp_path, trials=10) as decider:
        workers.run(
            view,
            decider,
            trials=tmp_path / "trials",
            on_trial=seen.append,
            on_progress=lambda number, epoch: stretches.append((number, epoch.steps)),
            segment=6,
            slice_seconds=0,
        )
        records = decider.records()
        assert decider.finished
    assert [r.state for r in records] == ["complete"] * 10
    assert sorted(r.number for r in seen) == list(range(10))
    assert {number for number, _ in stretches} == set(range(10))
    assert len({r.worker for r in records}) >= 2
    assert all(r.worker != f":{os.getpid()}" for r in records)
    kept = {int(folder.name) for folder in (tmp_path / "trials").iterdir()}
    assert kept == set(front_of(records))


def test_a_killed_worker_loses_no_trial_and_none_is_counted_twice(workers, view, tmp_path):
    deadly = with_side_effect(once_per(tmp_path, die))
    with open_decider(tmp_path, trials=5) as decider:
        dataclasses.replace(workers, slots=1).run(view, decider, trials=tmp_path / "trials", objectives=deadly)
        records = decider.records()
        assert decider.finished
    assert [r.state for r in records].count("complete") == 5
    (lost,) = [r for r in records if r.state == "failed"]
    assert "its worker was lost" in lost.error
    assert [r.setting for r in records].count(lost.setting) == 2, "its setting was tried again"
    assert sorted(states(tmp_path)) == ["COMPLETE"] * 5 + ["FAIL"]


def test_a_search_that_no_machine_can_hold_ends_and_is_resumed(workers, view, tmp_path, monkeypatch):
    gone = dataclasses.replace(workers, cpus=1000)
    with monkeypatch.context() as quick, open_decider(tmp_path, trials=2) as decider:
        quick.setattr(pool, "MACHINE_SECONDS", 1.0)
        quick.setattr(tuners, "LOOK_S", 0.2)
        with pytest.raises(Outage, match="no machine of the Ray cluster could hold a worker"):
            gone.run(view, decider, trials=tmp_path / "trials")
    with open_decider(tmp_path, trials=2) as decider:
        workers.run(view, decider, trials=tmp_path / "trials")
        cut, again = decider.records()[:2], decider.records()[2:]
    assert [record.state for record in (*cut, *again)] == ["failed", "failed", "complete", "complete"]
    assert {record.error for record in cut} == {"interrupted"}
    assert [record.setting for record in again] == [record.setting for record in cut], "nothing that was asked is lost"
    assert sorted(states(tmp_path)) == ["COMPLETE"] * 2 + ["FAIL"] * 2


@pytest.mark.slow
def test_errors_in_trials_end_the_search_with_their_text(workers, view, tmp_path):
    def broken():
        raise ArithmeticError("no such number")

    with open_decider(tmp_path, trials=5) as decider, pytest.raises(TooManyFailures, match="no such number"):
        workers.run(view, decider, trials=tmp_path / "trials", objectives=with_side_effect(broken))
    assert set(states(tmp_path)) == {"FAIL"}


SCRIPT = """
import sys, time
from pathlib import Path
from raybd.search import tuner
from tests.search.fakes import open_decider, tiny_view
from tests.search.test_tuner import with_side_effect

def slow():
    import time
    time.sleep(0.3)

folder = Path(sys.argv[1])
if __name__ == "__main__":
    with tuner.connected(workers=1) as workers, open_decider(folder, trials=8) as decider:
        try:
            workers.run(tiny_view(), decider, trials=folder / "trials", objectives=with_side_effect(slow))
        except KeyboardInterrupt:
            sys.exit(130)
"""


def begun(folder, script):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(script), str(folder)]
    return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)


def wait_for(folder, complete):
    """Until so many trials are complete and another is running, by what the journal says."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / JOURNAL).is_file():
            lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
            ended = sum(entry["op_code"] == 6 and entry.get("state") == 1 for entry in entries)
            asked = sum("ray_trial_id" in entry.get("user_attr", {}) for entry in entries)
            if ended >= complete and asked > ended:
                return
        time.sleep(0.02)
    raise AssertionError("the search did not get so far")


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_or_interrupted_driver_is_resumed_without_losing_or_doubling_a_trial(workers, view, tmp_path, sent):
    script, folder = tmp_path / "driver.py", tmp_path / "search"
    script.write_text(SCRIPT, encoding="utf-8")
    driver = begun(folder, script)
    try:
        wait_for(folder, complete=3)
        # Ctrl-C in a terminal reaches every process of the search, a kill only the driver.
        (os.killpg if sent == signal.SIGINT else os.kill)(driver.pid, sent)
        code = driver.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            driver.kill()
    left = states(folder)
    if sent == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert "RUNNING" in left
    else:
        assert code == 130
        assert "RUNNING" not in left, "an interrupted search leaves nothing running"
    done = left.count("COMPLETE")
    with open_decider(folder, trials=8) as decider:
        before = decider.records()
        dataclasses.replace(workers, slots=1).run(view, decider, trials=folder / "trials")
        records = decider.records()
    assert [r for r in records if r.number in {b.number for b in before}] == list(before)
    assert sum(r.counts for r in before) == done
    assert states(folder).count("COMPLETE") == 8
    assert set(states(folder)) == {"COMPLETE", "FAIL"}
    assert len({json.dumps(r.setting) for r in records if r.counts}) == 8, "each setting ended well exactly once"


def test_jobs_on_workers_end_as_local_ones_in_their_order(workers, view, tmp_path):
    jobs = [
        Job(defense=FineTuning(epochs=e, batch_size=16), seed=e, weights=tmp_path / str(e) / "weights.safetensors")
        for e in (3, 1, 2)
    ]
    seen = []
    one = dataclasses.replace(workers, slots=1)
    outcomes = one.map_jobs(view, jobs, on_job=lambda job, outcome: seen.append(job))
    assert [o.objectives for o in outcomes] == [o.objectives for o in local.map_jobs(view, jobs)]
    assert [o.steps for o in outcomes] == [9, 3, 6]
    assert sorted(job.seed for job in seen) == [1, 2, 3]
    assert all(job.weights.is_file() for job in jobs)
    assert workers.map_jobs(view, []) == ()


@pytest.mark.slow
def test_calls_come_back_in_order_survive_a_killed_worker_and_raise_their_own_errors(workers, tmp_path):
    effect = once_per(tmp_path, die)

    def slow_square(x):
        effect()
        time.sleep(0.05 * (3 - x))
        return x * x

    def broken(x):
        raise BadInput("this one")

    assert workers.map_calls(slow_square, range(4)) == [0, 1, 4, 9]
    with pytest.raises(BadInput, match="this one"):
        dataclasses.replace(workers, slots=1).map_calls(broken, [1])


def test_a_call_that_shows_nothing_until_it_ends_is_never_taken_as_hung(workers):
    def slow(x):
        time.sleep(1.5)
        return x

    assert dataclasses.replace(workers, patience=0.3).map_calls(slow, [1, 2]) == [1, 2]


def test_a_worker_that_waits_for_its_place_is_not_taken_as_hung_and_no_job_waits_with_it(workers, view):
    """Somebody else holds one of the two places for as long as it takes."""

    class Holder:
        def here(self):
            return True

    somebody = ray.remote(num_cpus=1)(Holder).remote()
    try:
        assert ray.get(somebody.here.remote())
        jobs = [Job(defense=FineTuning(epochs=1, batch_size=16), seed=seed) for seed in (0, 1, 2)]
        outcomes = dataclasses.replace(workers, patience=20).map_jobs(view, jobs)
    finally:
        ray.kill(somebody)
    assert [outcome.state for outcome in outcomes] == ["complete"] * 3
    assert len({outcome.worker for outcome in outcomes}) == 1


@pytest.mark.slow
def test_a_job_whose_worker_always_dies_is_a_failed_outcome(workers, view):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Deadly(Defense):
        kind = "deadly"

        def image_steps(self, images):
            return images

        def run(self, view, data, *, compute, seed):
            die()

    (outcome,) = workers.map_jobs(view, [Job(defense=Deadly(), seed=0)])
    assert outcome.state == "failed"
    assert "lost 3 times" in outcome.error


def test_a_trial_that_fits_on_no_machine_is_refused_and_ray_stays(workers):
    with pytest.raises(BadInput, match="resources"), tuner.connected(cpus_per_trial=64):
        pass
    with pytest.raises(BadInput, match="GPUs"), tuner.connected(gpus_per_trial=1):
        pass
    assert ray.is_initialized()


def test_a_stage_that_begins_while_all_machines_are_lost_waits_for_others(workers, monkeypatch):
    monkeypatch.setattr(tuner, "room", lambda cpus, gpus: 0)
    with tuner.connected(workers=3, address="joined before") as promised:
        assert promised.slots == 3
    with tuner.connected(address="joined before") as elastic:
        assert elastic.now() == 1


def test_only_machines_that_were_promised_and_did_not_come_may_come_later(monkeypatch):
    monkeypatch.setattr(tuner, "room", lambda cpus, gpus: 0)
    with pytest.raises(Outage, match="none came in 10 minutes"):
        tuner._slots(1, 0, promised=True, begun=False)
    with pytest.raises(BadInput, match=r"resources\.workers"):
        tuner._slots(1, 0, promised=False, begun=False)


def test_joining_again_uses_the_same_cluster(workers):
    with tuner.connected(workers=1) as again:
        assert again.slots == 1
    assert ray.is_initialized()


def test_joining_leaves_the_process_its_own_way_with_sigterm(workers, monkeypatch):
    """Ray puts a bare exit there, with which nothing under way is told."""

    def own(number, frame):
        raise AssertionError

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.signal(signal.SIGTERM, own)
    try:
        with tuner.connected():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("given", "joined"), [(None, "local"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_a_cluster_is_joined_only_where_it_is_named(workers, monkeypatch, given, joined):
    """Ray itself joins the cluster that was last started on the machine, whoever's it is."""
    asked = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with tuner.connected(address=given):
        pass
    assert asked == [joined]


def test_the_process_environment_is_left_as_it_was():
    before = dict(os.environ)
    with tuner._environment({"RAYBD_TEST": "1", "HOME": "elsewhere"}):
        assert os.environ["RAYBD_TEST"] == "1"
    assert dict(os.environ) == before
