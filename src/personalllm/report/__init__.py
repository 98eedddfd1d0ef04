"""Report results: an HTML page, figures, and a leaderboard for the terminal."""

from __future__ import annotations

from personalllm.report.analyses import write_analyses
from personalllm.report.leaderboard import leaderboard
from personalllm.report.page import render_report, write_figures
from personalllm.report.terminal import show_results

__all__ = ["leaderboard", "render_report", "show_results", "write_analyses", "write_figures"]
