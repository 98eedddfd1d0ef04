"""Regressions of the users' choices on features of the responses (section 3 of the paper)."""

from personalllm.analysis.regression.regressions import Regressions, regressions
from personalllm.analysis.regression.users import Contrast, UserRegressions, user_regressions

__all__ = ["Contrast", "Regressions", "UserRegressions", "regressions", "user_regressions"]
