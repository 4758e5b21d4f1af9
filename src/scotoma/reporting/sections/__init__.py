"""Sections of the report, one per evaluator or subject."""
