"""The command line answers at once, says what went wrong in one message, and ends with the code of its kind."""

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from typer.testing import CliRunner, Result

import raybd as raybd_api
from raybd import __version__, pipeline
from raybd.artifacts import GateRefused, NothingFeasible
from raybd.cli import app, show
from raybd.cli.show import LISTS
from raybd.registry import BadInput
from raybd.tracking import Delivered, Unreachable
from raybd.training import Epoch
from tests import studies

VERBS = (
    "run",
    "inject",
    "adopt",
    "search",
    "select",
    "assess",
    "promote",
    "report",
    "sync",
    "list",
    "validate",
    "speed",
    "submit",
    "status",
    "stop",
)
HEAVY = ("torch", "ray", "mlflow", "optuna", "pydantic", "sklearn", "plotly")


def raybd(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from raybd.cli import app;"
        "print(CliRunner().invoke(app, ['--help']).output);"
        f"print('imported:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "imported: []" in done.stdout
    assert all(f"│ {verb} " in done.stdout for verb in VERBS)


def test_help_answers_in_under_a_second() -> None:
    """In seconds of CPU, the best of three, because a busy machine is slow at everything."""
    command = [sys.executable, "-c", "from raybd.cli import main; main()", "--help"]
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 1


def test_importing_raybd_imports_nothing_heavy_and_the_verbs_come_on_demand() -> None:
    program = f"import sys, raybd; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert raybd_api.load_study("demo").injects
    assert callable(raybd_api.pipeline.search)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    done = raybd(verb, "--help")
    assert done.exit_code == 0
    assert "Usage: " in done.output


def test_the_flags_are_these_and_no_others() -> None:
    """A frozen list: a new flag is a decision, not an accident."""
    import typer

    flags = {
        name: sorted(option for p in command.params for option in p.opts if option.startswith("--"))
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    runs = ["--runs"]
    assert flags == {
        **dict.fromkeys(("inject", "adopt", "select", "assess", "report", "sync"), runs),
        "run": ["--runs", "--warm-start"],
        "search": ["--resume", "--runs", "--trials", "--warm-start"],
        "promote": ["--rollback", "--runs"],
        "validate": [],
        "speed": ["--trials", "--workers"],
        "list": [],
        "submit": ["--follow"],
        "status": [],
        "stop": [],
    }


def test_version_is_printed() -> None:
    assert raybd("--version").output == f"raybd {__version__}\n"


@pytest.mark.parametrize("what", LISTS)
def test_every_list_has_entries_with_a_word_on_each(what: str) -> None:
    done = raybd("list", what)
    assert done.exit_code == 0
    assert done.output.strip()


def test_the_list_of_scenarios_says_how_models_are_trained_in_plain_words_and_with_which_keys() -> None:
    text = " ".join(raybd("list", "scenarios").output.split())
    assert not re.search(r"Recipe|SimCLR", text)
    assert "Trained without labels, by contrast; keys of `training`: epochs, lr=0.001," in text


@pytest.mark.parametrize(
    ("trigger", "told"),
    [
        ({"kind": "patch", "target_label": 2, "goal": "all_to_one"}, "patch, pulls to label 2 (given)"),
        ({"kind": "warp", "target_label": None, "goal": "all_to_all"}, "warp, all to all (given)"),
        (None, "unknown (given)"),
    ],
)
def test_a_suspect_is_shown_with_the_label_that_its_trigger_pulls_to(
    capsys: pytest.CaptureFixture[str], trigger: dict[str, object] | None, told: str
) -> None:
    """In a transfer it was read by `adopt`, and nothing else on the terminal says it."""
    parts = {"splits": {"test": {"images": 9}}, "facts": {}, "warnings": [], "weights_digest": "9f2c" * 16}
    show.suspect(
        {"how": "adopt", "architecture": {"name": "small_resnet"}, "trigger": trigger, "trigger_knowledge": "given"}
        | parts
    )
    assert told in capsys.readouterr().out


def test_the_list_of_spaces_says_that_epochs_are_rounded_up() -> None:
    assert "epochs are rounded up to whole cycles" in " ".join(raybd("list", "spaces").output.split())


@pytest.mark.parametrize(("run", "told"), [(20.0, "epochs 6 (20 run)\n"), (6.0, "epochs 6\n"), (None, "epochs 6\n")])
def test_the_chosen_setting_says_how_many_epochs_it_ran(
    capsys: pytest.CaptureFixture[str], run: float | None, told: str
) -> None:
    show.choice({"number": 4, "setting": {"lr_max1": 0.5, "epochs": 6}, "epochs_run": run, "why": "it is best"})
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("data.source: missing"), 2, "data.source: missing\n"),
        (NothingFeasible("widen lr_max1"), 3, "widen lr_max1\n"),
        (GateRefused("ASR 7.1 % > 5 %"), 4, "ASR 7.1 % > 5 %\n"),
        (KeyboardInterrupt(), 130, "Interrupted. What was finished is kept; go on with: raybd inject demo\n"),
        (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops\nThis is a fault of raybd or of this machine."),
    ],
)
def test_an_error_is_one_message_and_the_exit_code_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "inject", fail)
    done = raybd("inject", "demo")
    assert done.exit_code == code
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.output


def test_sigterm_ends_a_command_as_ctrl_c_does_also_where_ctrl_c_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's job server blocks SIGINT in what it starts, and stops it by SIGTERM."""

    def terminated(*_: object, **__: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pipeline, "inject", terminated)
    try:
        done = raybd("inject", "demo")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert done.exit_code == 130
    assert done.stderr == "Interrupted. What was finished is kept; go on with: raybd inject demo\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "inject", fail)
    done = raybd("--debug", "inject", "demo")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr


def test_an_interrupted_run_elsewhere_is_told_where_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "select", interrupt)
    monkeypatch.setattr("raybd.cli.show.front", lambda run: None)
    said = raybd("select", "demo", "--runs", str(tmp_path)).stderr.replace("\n", "")
    assert f"go on with: raybd select demo --runs {tmp_path}" in said


def test_a_submitted_run_says_how_its_user_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's own study lies in a folder that Ray unpacked, where nobody types a command."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    monkeypatch.setenv("RAYBD_SUBMITTED", "studies/mine.yaml")
    said = raybd("run", "demo", "--runs", "/storage").stderr
    assert said == "Interrupted. What was finished is kept; go on with: raybd submit studies/mine.yaml\n"


def test_a_service_that_is_away_ends_with_exit_1_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unreachable("tracking.uri: MLflow does not answer")

    monkeypatch.setattr(pipeline, "promote", away)
    done = raybd("promote", "demo")
    assert done.exit_code == 1
    assert done.stderr == (
        "tracking.uri: MLflow does not answer\n"
        "What was finished is kept. When it answers again, go on with: raybd promote demo\n"
    )


@pytest.mark.parametrize(("left", "status"), [(0, 0), (3, 1)])
def test_a_sync_after_which_anything_still_waits_is_no_success(
    monkeypatch: pytest.MonkeyPatch, left: int, status: int
) -> None:
    found = Delivered(sent=2, already_there=1, left=left, reason="down" if left else "")
    monkeypatch.setattr(pipeline, "sync", lambda settings, *, runs: found)
    done = raybd("sync", "demo")
    assert done.exit_code == status
    assert f"2 sent, 1 already there, {left} still waiting" in done.stdout


def test_run_folders_lie_on_a_shared_storage_unless_the_user_says_otherwise_and_then_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, seen = tmp_path / "shared", []
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(studies.STUDY | {"cluster": {"storage": str(storage)}}))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(studies.SPACE))
    monkeypatch.setattr(pipeline, "promote", lambda settings, *, runs: seen.append(runs))
    monkeypatch.setattr("raybd.cli.show.promotion", lambda card: None)
    for words, said in (
        ((), ""),
        (("--runs", str(storage)), ""),
        (("--runs", "runs"), f"The run folder is runs/tiny, as --runs says, not on cluster.storage ({storage}).\n"),
    ):
        done = raybd("promote", str(tmp_path / "study.yaml"), *words)
        assert (done.exit_code, done.stderr) == (0, said)
    assert seen == [storage, storage, Path("runs")]


def test_a_call_from_python_looks_for_run_folders_on_a_shared_storage_too(tmp_path: Path) -> None:
    shared = studies.study(tmp_path, cluster={"storage": str(tmp_path / "shared")})
    with pytest.raises(BadInput, match=re.escape(f"{tmp_path / 'shared' / 'tiny'}: no such run")):
        pipeline.report(shared)


@pytest.mark.parametrize(
    ("words", "given"),
    [((), {}), (("--trials", "50"), {"trials": 50}), (("--trials", "+50", "--resume"), {"extend": 50})],
)
def test_trials_is_the_whole_budget_or_with_a_plus_so_many_more(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], given: dict[str, int]
) -> None:
    seen = {}
    monkeypatch.setattr(pipeline, "search", lambda settings, **arguments: seen.update(arguments))
    monkeypatch.setattr("raybd.cli.show.front", lambda run: None)
    assert raybd("search", "demo", *words).exit_code == 0
    assert {key: seen[key] for key in ("trials", "extend") if key in seen} == given
    assert seen["resume"] is ("--resume" in words)


@pytest.mark.parametrize("trials", ["0", "+0", "-5", "many", "1.5"])
def test_a_number_of_trials_below_one_is_refused(trials: str) -> None:
    done = raybd("search", "demo", f"--trials={trials}")
    assert done.exit_code == 2
    assert f"got '{trials}'" in done.stderr


def test_an_unknown_study_or_list_gets_the_nearest_name() -> None:
    assert "did you mean 'demo'" in raybd("run", "dmeo").stderr
    done = raybd("list", "model")
    assert (done.exit_code, "did you mean 'models'" in done.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["inject", "adopt"])
def test_trainings_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    def train(*_: object, on_training: Callable[[str, Epoch], None], **__: object) -> Mock:
        on_training("reference model", Epoch(index=0, steps=9, total=9, images=9, lr=0.1, loss=0.5, seconds=3))
        return Mock()

    monkeypatch.setattr(pipeline, verb, train)
    monkeypatch.setattr("raybd.cli.show.suspect", lambda card: None)
    done = raybd(verb, "demo")
    assert done.stderr == "reference model: step 9 of 9, loss 0.5, took 3 s\n"


def test_run_prints_table_and_report_of_a_refused_candidate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise GateRefused("refused")

    shown: list[Path] = []
    monkeypatch.setattr(pipeline, "run", refuse)
    monkeypatch.setattr("raybd.cli.show.outcome", shown.append)
    assert raybd("run", "demo", "--runs", "elsewhere").exit_code == 4
    assert shown == [Path("elsewhere/demo")]


def test_a_run_ends_with_the_verdict_of_its_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A promotion alone may be one of a model that never had a backdoor; the terminal must not stop there."""
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: None)
    (tmp_path / "demo").mkdir()
    verdict = {"word": "Promoted, no effect shown", "sentence": "But nothing shows that there was a backdoor."}
    (tmp_path / "demo" / "summary.json").write_text(
        json.dumps({"verdict": verdict, "warnings": ["It is weak."]}), encoding="utf-8"
    )
    *_, warned, said, report = raybd("run", "demo", "--runs", str(tmp_path)).stdout.strip().splitlines()
    assert said == "verdict: Promoted, no effect shown. But nothing shows that there was a backdoor."
    assert warned == "warning: It is weak."
    assert report.startswith("report: ")


def test_run_says_what_each_stage_took_and_what_an_earlier_run_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(*_: object, on_kept: Callable[[str], None], on_stage: Callable[[str], None], **__: object) -> None:
        on_kept("inject")
        on_stage("select")
        on_stage("report")

    monkeypatch.setattr(pipeline, "run", walk)
    monkeypatch.setattr("raybd.cli.show.outcome", lambda run: None)
    assert raybd("run", "demo").stderr.splitlines() == [
        "inject: done before, kept",
        "select",
        "select took 0 s",
        "report",
        "report took 0 s",
    ]
