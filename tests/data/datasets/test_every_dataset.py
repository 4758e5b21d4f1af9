"""What holds for every public data set, without being told which there are."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from scotoma import plugins
from scotoma.data import catalog, sources
from scotoma.errors import UsageError

NAMES = plugins.names("datasets")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_where_from_and_on_what_terms(name: str) -> None:
    module = plugins.module("datasets", name)
    assert len(plugins.summaries("datasets")[name]) > 30
    assert "https://" in module.SOURCE
    assert all("\n" not in text and len(text) > 15 for text in (module.SOURCE, module.TERMS))
    assert module.LAYOUT.strip()
    documented = inspect.getdoc(module.load) or ""
    for policy, (_, default) in catalog.policies(module).items():
        assert f"{policy}: " in documented
        assert default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_it_is_refused_by_one_line_that_shows_the_layout(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        sources.load(f"{name}:{tmp_path}")
    said = str(error.value)
    assert "\n" not in said
    assert str(tmp_path) in said
    assert " ".join(plugins.module("datasets", name).LAYOUT.splitlines()[0].split()) in said


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there_and_a_policy_that_it_has_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        sources.load(f"{name}:{tmp_path / 'absent'}")
    with pytest.raises(UsageError, match="no policy 'colour=blue'"):
        sources.load(f"{name}:{tmp_path}?colour=blue")
