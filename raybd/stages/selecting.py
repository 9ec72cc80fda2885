"""The stage `select`: the best settings by the rule, confirmed with fresh seeds; the median seed's weights ship."""

from pathlib import Path

from raybd.artifacts import Candidate, NothingFeasible, Study
from raybd.registry import as_json, describe, revive

from raybd.search.records import TrialRecord
from raybd.settings import StudySettings
from raybd.stages.assessing import Executor
from raybd.weights import load_weights, weights_digest

NOTE = "nothing_feasible.txt"
