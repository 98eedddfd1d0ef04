"""What a population wants: preference diversity."""

from personalllm.analysis.diversity import Diversity, diversity

__all__ = ["Diversity", "diversity"]
