"""Metrics, intervals, decision thresholds."""
