"""Sections of the report, one an evaluator or subject."""
