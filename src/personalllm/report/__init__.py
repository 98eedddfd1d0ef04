"""Results made readable: an HTML report, figures, and a leaderboard for the terminal."""

from __future__ import annotations

from personalllm.report.analyses import write_analyses
from personalllm.report.figures import write_figures
from personalllm.report.page import render_report
from personalllm.report.terminal import leaderboard_table

__all__ = ["leaderboard_table", "render_report", "write_analyses", "write_figures"]
