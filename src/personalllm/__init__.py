"""The benchmark of LLM personalisation: simulated users, algorithms, protocols, reports."""

__version__ = "0.1.0"
