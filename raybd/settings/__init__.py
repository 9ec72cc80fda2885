"""STUDY.yaml as typed, checked settings."""

from raybd.settings.loading import load_study, parse_study, study_file
from raybd.settings.study import StudySettings, TriggerKnowledge

__all__ = ["StudySettings", "TriggerKnowledge", "load_study", "parse_study", "study_file"]
