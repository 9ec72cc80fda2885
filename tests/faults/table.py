"""The faults that the tests inject, what happens, and which test shows it: the table of the README."""

from collections.abc import Iterator
from typing import NamedTuple


class Fault(NamedTuple):
    """One row; `test` is a pytest id without its parameters."""

    fault: str
    injected: str
    happens: str
    test: str


FAULTS = (
    Fault(
        "a worker is killed",
        "SIGKILL in the middle of a trial",
        "the trial is told failed and repeated; figures as undisturbed",
        "tests/faults/test_trials.py::test_a_worker_that_is_lost_costs_one_repeat_and_no_figure",
    ),
    Fault(
        "a worker is killed in a confirmation",
        "SIGKILL or a sleep without end in `raybd select`",
        "that training is repeated; the same candidate",
        "tests/faults/test_trials.py::test_a_confirmation_whose_worker_is_lost_is_repeated",
    ),
    Fault(
        "a trial runs out of memory",
        "RLIMIT_AS in its worker; MemoryError",
        "the trial is told failed and repeated; figures as undisturbed",
        "tests/faults/test_trials.py::test_a_trial_without_memory_is_repeated_and_the_search_ends_as_undisturbed",
    ),
    Fault(
        "a trial hangs",
        "a sleep without end in a training step",
        "its worker is replaced after `resources.trial_timeout_s` (an hour) of silence, the trial repeated",
        "tests/faults/test_trials.py::test_a_worker_that_is_lost_costs_one_repeat_and_no_figure",
    ),
    Fault(
        "a trial returns NaN",
        "NaN logits in one training step",
        "the trial is complete, collapsed, infeasible; the search goes on",
        "tests/faults/test_trials.py::test_a_trial_that_returns_nan_is_complete_and_collapsed_and_no_other_is_touched",
    ),
    Fault(
        "the driver is killed, 20 times",
        "SIGKILL of `raybd run` at random moments, then the same command again",
        "settings, figures, front and candidate as undisturbed (one worker)",
        "tests/faults/test_drivers.py::test_a_driver_killed_twenty_times_and_resumed_ends_as_if_undisturbed",
    ),
    Fault(
        "two drivers on one run folder",
        "every verb while `raybd run` is in each of its stages",
        "the second is refused with exit 2 and changes nothing, here and on S3",
        "tests/faults/test_drivers.py::test_a_second_driver_is_refused_at_every_stage",
    ),
    Fault(
        "two machines on one copy on S3",
        "`raybd run` from another folder while a first one is in each of its stages",
        "the second waits 150 s for the first to end or fall silent, then is refused with exit 2 and changes nothing",
        "tests/faults/test_drivers.py::test_a_second_machine_on_one_copy_is_refused_and_then_goes_on",
    ),
    Fault(
        "a machine is taken for dead, and is not",
        "one that S3 does not hear of for longer than a mark may be old, while another takes the copy over",
        "the first sends nothing more, says so, and ends with exit 2; what it did is in its own folder",
        "tests/cluster/test_lease.py::test_a_machine_that_was_thought_dead_sends_nothing_more_and_says_so",
    ),
    Fault(
        "a fetch from S3 is cut short",
        "an interrupt in the middle of it",
        "no run folder is left; the same command fetches again",
        "tests/cluster/test_mirror.py::test_a_fetch_cut_short_leaves_no_run_folder_and_is_done_again",
    ),
    Fault(
        "the disk is full",
        "a small tmpfs under the run folder that fills up in the middle",
        "exit 1 with what to do; with room again `--resume` ends as undisturbed",
        "tests/faults/test_disk.py::"
        "test_a_disk_that_fills_up_in_the_middle_ends_the_search_in_words_and_room_lets_it_go_on",
    ),
    Fault(
        "the disk can only be read",
        "the tmpfs remounted read-only after a kill",
        "exit 1 with what to do; nothing is changed",
        "tests/faults/test_disk.py::test_a_disk_that_can_only_be_read_is_said_so_and_left_as_it_was",
    ),
    Fault(
        "MLflow is down at the start, in the middle, at the end",
        "the server is killed, and started again when the run is over",
        "the run ends but for the promotion; `raybd sync` delivers each record exactly once",
        "tests/faults/test_server_and_clock.py::test_a_run_whose_server_goes_away_is_delivered_once_and_then_promoted",
    ),
    Fault(
        "a promotion is cut short",
        "SIGKILL before the version is made; between its tags and the alias",
        "`raybd promote` again finishes it: one version, one alias",
        "tests/faults/test_server_and_clock.py::test_a_promotion_killed_on_its_way_is_finished_by_the_same_command",
    ),
    Fault(
        "the clock is set back",
        "a fake clock, an hour in the middle of a search, a day before it is resumed",
        "order and durations stay sane; figures as undisturbed",
        "tests/faults/test_server_and_clock.py::test_a_clock_set_back_leaves_order_and_durations_sane",
    ),
    Fault(
        "cards, weights, journal or study.json are damaged",
        "cut short, overwritten, of another shape",
        "refused with exit 2, left byte for byte as they were",
        "tests/faults/test_corruption.py::test_a_damaged_file_is_refused_with_exit_2_and_left_as_it_was",
    ),
    Fault(
        "what an interrupted `select` or `assess` had finished is damaged",
        "outcome.json or weights cut short, of another shape, one bit flipped",
        "refused with exit 2, left as it was",
        "tests/faults/test_corruption.py::test_a_damaged_training_of_a_stage_that_was_killed_is_refused",
    ),
    Fault(
        "the journal's last line is half-written",
        "cut at several places",
        "the line is dropped, its trial told anew",
        "tests/faults/test_corruption.py::test_a_last_line_written_by_half_survives",
    ),
    Fault(
        "a machine is lost, another joins",
        "all processes of one of two hosts killed, a host started in its place",
        "its trials are told failed and repeated on the other",
        "tests/cluster/test_hosts.py::test_a_search_outlives",
    ),
    Fault(
        "the network between machines is cut for 30 s",
        "the cable between two network namespaces pulled",
        "the search goes on, or ends and is resumed",
        "tests/cluster/test_hosts.py::test_a_search_outlives",
    ),
    Fault(
        "the head is lost",
        "all processes of the head, the driver's among them, killed; a new head, the same command again",
        "the run goes on where it was",
        "tests/cluster/test_hosts.py::test_a_job_submitted_again_after_the_head_was_lost_goes_on_where_it_was",
    ),
    Fault(
        "the head is lost with its disk",
        "the same, and the run folder deleted; study in PostgreSQL, copy on S3",
        "the run folder comes back from S3, the trials from PostgreSQL; lost weights of the front are trained again",
        "tests/cluster/test_lost_disk.py::test_a_run_goes_on_from_s3_and_postgresql_alone",
    ),
    Fault(
        "PostgreSQL restarts, or is away",
        "an immediate restart, 10 s of downtime, and for good, in the middle of a search",
        "the search waits up to five minutes, figures as undisturbed; then exit 1, and it can be resumed",
        "tests/cluster/test_database.py::test_a_database_that_restarts_in_the_middle_costs_no_trial",
    ),
    Fault(
        "S3 answers nobody for 20 s",
        "its server stopped in the middle of a run",
        "the search goes on; the copy is whole in the end",
        "tests/cluster/test_lost_disk.py::test_a_run_outlives_an_object_store_that_answers_nobody_for_a_while",
    ),
    Fault(
        "S3 takes nothing to the end",
        "writing refused for good while what keeps the copy runs",
        "nothing is held up; what cannot be sent within five minutes after the command's end is said, exit 1",
        "tests/cluster/test_mirror.py::test_an_outage_holds_nothing_up_and_what_is_unsaved_at_the_end_is_said",
    ),
)


def rows(faults: tuple[Fault, ...] = FAULTS) -> Iterator[str]:
    """Yield the lines of the README's table."""
    yield "| fault | how a test injects it | what happens |"
    yield "|---|---|---|"
    for fault in faults:
        yield f"| {fault.fault} | {fault.injected} | {fault.happens} |"
