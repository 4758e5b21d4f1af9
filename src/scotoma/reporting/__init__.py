"""Builds one self-contained ``report.html`` from run folders; never imports torch. ``build.build`` is the entry point."""
