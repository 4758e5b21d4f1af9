"""The demo: the whole way in one call."""

from __future__ import annotations

from pathlib import Path

import pytest

from scotoma.commands.demo import demo


@pytest.mark.long
def test_the_demo_ends_with_a_report(tmp_path: Path) -> None:
    page = demo(tmp_path / "demo", images=300, minutes=0.1, quiet=True)
    assert page == tmp_path / "demo" / "report.html" and "cardiomegaly" in page.read_text()
