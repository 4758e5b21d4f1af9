"""Builds one self-contained ``report.html`` from run folders; never imports torch."""

from scotoma.report.build import build

__all__ = ["build"]
