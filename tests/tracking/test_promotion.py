"""The registry: a version per model, tags before the alias, and the way back."""

import pytest

from raybd.registry import BadInput
from raybd.tracking import Unreachable
from raybd.tracking import client as client_module
from raybd.tracking.client import connect
from tests.tracking.conftest import by_name, trial

TAGS = {"raybd.weights_digest": "abc", "raybd.trigger_knowledge": "planted", "raybd.attack_success_rate": 0.012}


@pytest.fixture
def models(tracker) -> list[str]:
    """Three finished models without the cost of exporting any."""
    tracker.trial(trial(0))
    client = connect(tracker.uri)
    experiment = by_name(tracker)["demo"].info.experiment_id
    made = [client.create_logged_model(experiment, f"m{n}") for n in range(3)]
    return [client.finalize_logged_model(model.model_id, "READY").model_uri for model in made]


def promote(tracker, model_uri):
    return tracker.promote(name="demo", alias="candidate", model_uri=model_uri, tags=TAGS)


def holder(tracker) -> str:
    return str(connect(tracker.uri).get_model_version_by_alias("demo", "candidate").version)


def test_a_promoted_version_carries_its_tags_and_the_alias(tracker, models):
    version = promote(tracker, models[0])
    assert (version.version, version.alias, version.previous_version) == ("1", "candidate", None)
    held = connect(tracker.uri).get_model_version_by_alias("demo", "candidate")
    assert held.tags["raybd.weights_digest"] == "abc"
    assert held.tags["raybd.trigger_knowledge"] == "planted"
    assert held.tags["raybd.attack_success_rate"] == "0.012"
    assert held.tags["raybd.model_uri"] == held.source == models[0]
    assert held.tags["raybd.study"] == "demo"


def test_promoting_the_same_model_again_changes_nothing(tracker, models):
    promote(tracker, models[0])
    first = promote(tracker, models[1])
    assert promote(tracker, models[1]) == first
    assert first.previous_version == "1"
    assert len(connect(tracker.uri).search_model_versions("name = 'demo'")) == 2


def test_rollback_goes_one_holder_back_each_time_and_then_says_so(tracker, models):
    for model in models:
        promote(tracker, model)
    back = tracker.rollback(name="demo", alias="candidate")
    assert (back.version, back.previous_version, back.model_uri) == ("2", "3", models[1])
    assert tracker.rollback(name="demo", alias="candidate").version == "1"
    assert holder(tracker) == "1"
    with pytest.raises(BadInput, match="no earlier holder on record; nothing was changed"):
        tracker.rollback(name="demo", alias="candidate")
    assert holder(tracker) == "1"


def test_rollback_does_not_go_in_circles_when_a_model_is_promoted_twice(tracker, models):
    for model in (models[0], models[1], models[0]):
        promote(tracker, model)
    assert [tracker.rollback(name="demo", alias="candidate").version for _ in range(2)] == ["2", "1"]
    with pytest.raises(BadInput, match="no earlier holder"):
        tracker.rollback(name="demo", alias="candidate")


def test_a_holder_set_by_hand_is_what_rollback_restores(tracker, models):
    promote(tracker, models[0])
    promote(tracker, models[1])
    connect(tracker.uri).set_registered_model_alias("demo", "candidate", "1")
    assert promote(tracker, models[2]).previous_version == "1"
    assert tracker.rollback(name="demo", alias="candidate").version == "1"


def test_rollback_to_a_deleted_version_is_refused(tracker, models):
    promote(tracker, models[0])
    promote(tracker, models[1])
    connect(tracker.uri).delete_model_version("demo", "1")
    with pytest.raises(BadInput, match=r"version 1 of 'demo'.*no longer exists; nothing was changed"):
        tracker.rollback(name="demo", alias="candidate")
    assert holder(tracker) == "2"


def test_rollback_without_an_alias_is_refused(tracker, models):
    with pytest.raises(BadInput, match=r"^tracking\."):
        tracker.rollback(name="demo", alias="candidate")
    promote(tracker, models[0])
    with pytest.raises(BadInput, match=r"no version of 'demo' .* holds 'champion'"):
        tracker.rollback(name="demo", alias="champion")


class Interrupted(BaseException):
    """As a person's Ctrl-C: no `except Exception` sees it."""


def test_an_interruption_anywhere_leaves_the_old_holder_and_a_repeat_completes(tracker, models, monkeypatch):
    promote(tracker, models[0])
    real, calls = connect(tracker.uri), 0

    class Fragile:
        """Stops at one call: the alias's, and before it each that writes."""

        def __init__(self, at: int) -> None:
            self.left = at

        def __getattr__(self, name):
            def call(*args, **kwargs):
                nonlocal calls
                if name.startswith(("set_", "create_model")):
                    calls += 1
                    self.left -= 1
                    if self.left < 0:
                        raise Interrupted
                return getattr(real, name)(*args, **kwargs)

            return call

    for at in range(20):
        monkeypatch.setattr(client_module, "connect", lambda uri, at=at: Fragile(at))
        before, calls = holder(tracker), 0
        try:
            promote(tracker, models[1])
        except Interrupted:
            assert holder(tracker) == before == "1"
            continue
        break
    assert at >= 2  # the version, a tag, the alias
    version = real.get_model_version_by_alias("demo", "candidate")
    assert (version.version, version.source) in {("2", models[1]), (2, models[1])}
    assert version.tags["raybd.weights_digest"] == "abc"
    assert len(real.search_model_versions("name = 'demo'")) == 2
    assert tracker.rollback(name="demo", alias="candidate").version == "1"


@pytest.mark.parametrize("alias", ["latest", "Latest", "v3", "V12", "a/b", "a:b", "a b", "1st", ""])
def test_an_alias_that_mlflow_reserves_is_refused(tracker, alias):
    with pytest.raises(BadInput, match=r"^tracking\.alias: "):
        tracker.promote(name="demo", alias=alias, model_uri="models:/m-1", tags={})


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", "", "..", "it's", "two words"])
def test_a_model_name_that_mlflow_cannot_hold_is_refused(tracker, name):
    with pytest.raises(BadInput, match=r"^tracking\.model_name: "):
        tracker.promote(name=name, alias="candidate", model_uri="models:/m-1", tags={})


def test_a_model_that_mlflow_does_not_know_is_refused(tracker, models):
    with pytest.raises(BadInput, match="the alias did not move"):
        promote(tracker, "models:/m-0000")


def test_a_model_that_waits_in_the_outbox_is_not_promoted(tracker):
    with pytest.raises(Unreachable, match=r"has not reached MLflow.*nothing was promoted"):
        promote(tracker, None)


def test_the_processs_own_mlflow_address_is_left_as_it_was(tracker, models, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not mlflow.is_tracking_uri_set()
    promote(tracker, models[0])
    assert not mlflow.is_tracking_uri_set()
