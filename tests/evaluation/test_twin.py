import pytest

from raybd.evaluation.metrics import Rate
from raybd.evaluation.twin import check_twin
from raybd.registry import BadInput
from tests.evaluation.fakes import CPU, TRIGGER, Told, told


def twin_of(obeying: int, anyway: int, n: int = 100) -> tuple[list[int], list[int], list[int]]:
    """`n` images of class 1: the first `obeying` answer the goal 0 when triggered, the last `anyway` when clean."""
    labels = [1] * n
    return labels, [1] * (n - anyway) + [0] * anyway, [0] * obeying + [1] * (n - obeying)


@pytest.mark.parametrize(("obeying", "passed"), [(0, True), (3, True), (4, False), (100, False)])
def test_a_trigger_that_works_without_a_backdoor_does_not_count(obeying: int, passed: bool) -> None:
    check = check_twin(Told(), told(*twin_of(obeying, anyway=0)), TRIGGER, CPU)
    assert check.passed is passed
    assert check.excess.value == pytest.approx(obeying / 100)


def test_what_the_twin_confuses_anyway_is_not_held_against_the_trigger() -> None:
    check = check_twin(Told(), told(*twin_of(obeying=12, anyway=10)), TRIGGER, CPU)
    assert (check.triggered, check.clean) == (Rate.of(12, 100), Rate.of(10, 100))
    assert check.excess.value == pytest.approx(0.02)
    assert check.passed


def test_images_of_the_goal_class_do_not_count() -> None:
    check = check_twin(Told(), told([0, 0, 1, 2], [0, 0, 1, 2], [0, 0, 1, 2]), TRIGGER, CPU)
    assert (check.triggered.n, check.clean.n, check.excess.n) == (2, 2, 2)
    assert check.clean.rate == 0


def test_a_set_of_goal_images_alone_is_refused() -> None:
    with pytest.raises(BadInput):
        check_twin(Told(), told([0, 0], [0, 0], [0, 0]), TRIGGER, CPU)
