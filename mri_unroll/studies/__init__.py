"""From a DICOM study to a better or a simulated one: read, work, judge, write, report."""

from mri_unroll.studies.restoring import restore_study
from mri_unroll.studies.results import SeriesResult, StudyOutcome
from mri_unroll.studies.simulating import simulate_study

__all__ = ["SeriesResult", "StudyOutcome", "restore_study", "simulate_study"]
