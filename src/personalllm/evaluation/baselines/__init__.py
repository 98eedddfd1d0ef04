"""Baselines, which ignore the user, and oracles, which see the scores."""
