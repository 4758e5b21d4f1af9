"""The demo: the whole way in one call."""

from __future__ import annotations

from pathlib import Path

from scotoma.demo import demo


def test_the_demo_ends_with_a_report_and_may_be_repeated(tmp_path: Path) -> None:
    page = demo(tmp_path / "demo", pictures=120, minutes=0.05, quiet=True)
    assert page == tmp_path / "demo" / "report.html" and "cardiomegaly" in page.read_text()
    first = page.stat().st_mtime_ns
    demo(tmp_path / "demo", pictures=120, minutes=0.05, quiet=True)
    assert page.stat().st_mtime_ns > first
