"""The report: one HTML file that shows a reconstruction with everything needed to judge it, and needs nothing else."""

from mri_unroll.report.content import ReportContent
from mri_unroll.report.page import write_report

__all__ = ["ReportContent", "write_report"]
