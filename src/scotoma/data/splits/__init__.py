"""Splits without leaks: units, strata, duplicates, label draws."""
