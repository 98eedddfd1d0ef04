"""Numerical and textual parts that several methods share."""
