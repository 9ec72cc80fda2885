"""Claims about the live view: its counts, its speed, and that a pipe gets one plain line per trial."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from raybd.progress import LiveSearch, PlainSearch, Repeats, Tally, Trainings, verdict, watch
from raybd.search.records import Outcome, TrialRecord
from raybd.training import Epoch
from tests.search.fakes import SPACE, measured


def record(number, outcome, *, feasible=False):
    return TrialRecord.of(number, SPACE.first[0], 7, outcome, feasible=feasible)


GOOD = record(0, measured(0.02, 0.97), feasible=True)
WORSE = record(1, measured(0.5, 0.98))
COLLAPSED = record(2, measured(0.0, 0.1, collapsed=True))
PRUNED = record(3, Outcome(state="pruned", reason="hopeless"))
CUT = replace(record(5, Outcome.failed("interrupted")), interrupted=True)
FAILED = record(4, Outcome.failed(MemoryError("too large")))


class Clock:
    time = 100.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def text_of(console):
    return console.file.getvalue()


def plain_console():
    return Console(file=io.StringIO(), force_terminal=False, width=60)


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=160)


def test_the_counts_are_those_of_the_summary(clock):
    tally = Tally(clock)
    tally.begin(10)
    for each in (GOOD, WORSE, COLLAPSED, PRUNED, FAILED):
        tally.add(each)
    assert (tally.done, tally.pruned, tally.collapsed, tally.failed) == (4, 1, 1, 1)


def test_speed_and_time_left_come_from_this_session_alone(clock):
    tally = Tally(clock)
    tally.begin(12, [GOOD, WORSE])
    assert tally.trials_per_hour is None
    assert tally.seconds_left is None
    clock.time += 30
    tally.add(COLLAPSED)
    tally.add(FAILED)
    tally.add(PRUNED)
    assert tally.trials_per_hour == pytest.approx(240)
    assert "4 of 12 trials done" in tally.line()
    assert tally.seconds_left is None, "two trials that ran side by side with others tell no speed"
    tally.add(PRUNED)
    tally.add(PRUNED)
    assert tally.seconds_left == pytest.approx(6 * 7.5)
    assert "about 45 s left" in tally.line()
    clock.time += 120
    assert "about 4 min left" in tally.line()


def test_a_search_of_few_trials_tells_its_time_left_too(clock):
    tally = Tally(clock)
    tally.begin(2)
    clock.time += 30
    tally.add(GOOD)
    tally.add(WORSE)
    assert "finished" in tally.line()


def test_the_front_fits_80_columns_with_whole_headings(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    view = LiveSearch(console)
    view.on_trial(GOOD)
    with console.capture() as capture:
        console.print(view._drawn())
    drawn = capture.get()
    assert all(heading in drawn for heading in ("trial", "ASR", "C-Acc", "drop", "setting"))
    assert all(name in drawn for name in GOOD.setting)
    assert "…" not in drawn


def test_a_pipe_gets_one_line_per_trial():
    console = plain_console()
    with watch(console) as view:
        assert type(view) is PlainSearch
        view.on_start(5, [])
        for each in (GOOD, WORSE, COLLAPSED, PRUNED, FAILED):
            view.on_progress(each.number, Epoch(index=0, steps=5, total=60, images=80, lr=0.1, loss=1.0, seconds=0.1))
            view.on_trial(each)
    lines = text_of(console).splitlines()
    assert len(lines) == 5
    assert "\x1b" not in text_of(console)
    assert "ASR 2.0%, C-Acc 97.0% (drop +1.0 points), feasible" in lines[0]
    assert "lr_max1 0.1" in lines[0]
    assert "infeasible" in lines[1]
    assert "collapsed, the loss is not finite" in lines[2]
    assert "pruned (hopeless)" in lines[3]
    assert "failed (MemoryError: too large)" in lines[4]


def test_a_resumed_search_says_what_it_begins_with():
    console = plain_console()
    with watch(console) as view:
        view.on_start(5, [GOOD, WORSE])
    assert "resuming: 2 of 5 trials done" in text_of(console)


def test_a_terminal_gets_a_table_with_the_front_and_what_is_under_way():
    console = terminal()
    with watch(console) as view:
        assert isinstance(view, LiveSearch)
        view.on_start(8, [])
        view.on_progress(5, Epoch(index=0, steps=55, total=60, images=80, lr=0.1, loss=1.25, seconds=0.1))
        for each in (WORSE, GOOD, COLLAPSED, FAILED):
            view.on_trial(each)
        with console.capture() as capture:
            console.print(view._drawn())
        drawn = capture.get()
    assert "3 of 8 trials done" in drawn
    assert "current front" in drawn
    assert "2.0%" in drawn
    assert "50.0%" not in drawn, "an infeasible point is not on the front of feasible ones"
    assert "trial 5: step 55 of 60, loss 1.25" in drawn
    assert "MemoryError: too large" in text_of(console), "a failure stays on the screen"


def test_a_front_without_a_feasible_point_says_so():
    console = terminal()
    view = LiveSearch(console)
    view.on_trial(WORSE)
    with console.capture() as capture:
        console.print(view._drawn())
    assert "nothing feasible yet" in capture.get()


def test_text_from_a_trial_is_never_read_as_markup():
    console = plain_console()
    PlainSearch(console).on_trial(record(0, Outcome.failed("[red]strange[/red]")))
    assert "[red]strange[/red]" in text_of(console)


def stretch(steps, seconds, *, total=100):
    return Epoch(index=0, steps=steps, total=total, images=0, lr=0.1, loss=0.5, seconds=seconds, collapsed="")


def test_a_log_hears_of_a_training_at_first_now_and_then_and_at_its_end(clock):
    console = Console(file=io.StringIO(), force_terminal=False, width=60)
    view = Trainings(console, now=clock)
    for steps in (10, 20, 30, 100):
        view.on_training("poisoned model", stretch(steps, steps * 6.0))
        clock.time += 16
    assert text_of(console).splitlines() == [
        "poisoned model: step 10 of 100, loss 0.5, about 9 min left",
        "poisoned model: step 30 of 100, loss 0.5, about 7 min left",
        "poisoned model: step 100 of 100, loss 0.5, took 10 min",
    ]


def test_a_terminal_shows_one_line_that_is_written_over(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    view = Trainings(console, now=clock)
    for steps in (50, 100):
        view.on_training("twin", stretch(steps, steps / 10))
    written = text_of(console)
    assert written.count("\n") == 1
    assert written.count("\r") == 2
    assert "about 5 s left" in written.split("\r")[1]


def test_trainings_of_a_stage_are_counted_with_what_the_rest_will_take(clock):
    console = Console(file=io.StringIO(), width=160)
    view = Repeats(console, now=clock)
    clock.time += 1000  # the stage before them does not count
    for done in range(4):
        view.on_done(done, 3)
        clock.time += 60
    assert text_of(console).splitlines() == [
        "0 of 3 trainings done",
        "1 of 3 trainings done, about 2 min left",
        "2 of 3 trainings done, about 60 s left",
        "3 of 3 trainings done",
    ]


def test_a_trial_that_was_cut_is_told_apart_from_one_that_failed() -> None:
    tally = Tally()
    tally.begin(5, [FAILED, CUT])
    assert (tally.failed, tally.interrupted, tally.done) == (1, 1, 0)
    assert "1 failed · 1 interrupted" in tally.line()
    assert verdict(CUT) == "interrupted"
