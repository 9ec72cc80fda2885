"""BadNets pastes an opaque square on images of every class."""

import pytest

from raybd.attacks import BadNets
from raybd.registry import BadInput
from raybd.triggers import Patch
from tests.digits import splits, workshop


def test_its_fields_are_those_of_its_square() -> None:
    attack = BadNets(target_label=3, size=2, row=1, column=-3, value=9)
    assert attack.trigger() == Patch(target_label=3, size=2, row=1, column=-3, value=9)


def test_it_draws_from_every_class_the_target_included() -> None:
    chosen = BadNets(target_label=3).poison(workshop(), seed=0).poisoned
    assert len(splits().train.labels[list(chosen)].unique()) == 10


@pytest.mark.parametrize(("key", "value"), [("size", 0), ("value", 300)])
def test_a_square_that_makes_no_sense_is_refused_when_the_study_is_read(key: str, value: int) -> None:
    with pytest.raises(BadInput, match=f"{key}: expected"):
        BadNets(target_label=0, **{key: value})
