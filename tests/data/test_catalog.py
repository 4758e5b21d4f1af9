from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal

import pandas as pd
import pytest

from scotoma import plugins
from scotoma.data import catalog, sources
from scotoma.data.dataset import Dataset
from scotoma.data.labels import masks
from scotoma.errors import UsageError


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Three data sets that keep what they are called with."""
    calls: list[dict] = []

    def load(root: Path, uncertain: Literal["missing", "0", "1"] = "missing", every: int = 3, published: bool = False) -> Dataset:
        """Load."""
        calls.append({"root": root, "uncertain": uncertain, "every": every, "published": published})
        return Dataset("made", pd.DataFrame({"image_path": ["/a.png"]}))

    module = ModuleType("made")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setattr(plugins, "names", lambda kind: ["knee_mr", "knee_xray", "spine_ct"])
    monkeypatch.setattr(plugins, "module", lambda kind, name: module)
    return calls


def test_name_path_and_policies(made_up: list[dict], tmp_path: Path) -> None:
    default = {"root": tmp_path, "uncertain": "missing", "every": 3, "published": False}
    for typed, changed in {
        f"knee_mr:{tmp_path}": {},
        f"Knee-MR:{tmp_path}": {},
        f"spine:{tmp_path}": {},
        f"spine_ct:{tmp_path}?uncertain=1": {"uncertain": "1"},
        f"spine_ct:{tmp_path}?every=12&published=yes&uncertain=0": {"every": 12, "published": True, "uncertain": "0"},
        f"spine_ct:{tmp_path}?published=0": {},
    }.items():
        sources.load(typed)
        assert made_up.pop() == default | changed, typed


def test_a_folder_may_be_below_home(made_up: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "spine").mkdir()
    sources.load("spine_ct:~/spine")
    assert made_up.pop()["root"] == tmp_path / "spine"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("knee:{}", "'knee' may be knee_mr or knee_xray"),
        ("knee_mri:{}", "neither a file nor a known data set; did you mean 'knee_mr'"),
        ("zzz:{}", "scotoma list datasets"),
        ("spine_ct:", "write spine_ct:PATH"),
        ("spine_ct:{}/absent", "absent: no such file or folder"),
        ("spine_ct:{}?certain=1", "no policy 'certain=1'; policies: uncertain=missing|0|1, every=3"),
        ("spine_ct:{}?uncertain", "no policy 'uncertain'"),
        ("spine_ct:{}?", "no policy ''"),
        ("spine_ct:{}?uncertain=2", "uncertain=2 is none of missing|0|1"),
        ("spine_ct:{}?every=0", "every=0 is none of"),
        ("spine_ct:{}?every=x", "every=x is none of"),
        ("spine_ct:{}?published=maybe", "published=maybe is none of 0|1"),
    ],
)
def test_what_is_wrong_is_one_line(made_up: list[dict], tmp_path: Path, typed: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        sources.load(typed.format(tmp_path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not made_up


def test_a_file_with_a_colon_in_its_name_is_a_file(made_up: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spine:ct.csv").write_text("image_path\na.png\n")
    assert sources.load("spine:ct.csv").name == "spine:ct"
    assert sources.load(tmp_path / "spine:ct.csv").name == "spine:ct"
    assert not made_up


def test_the_list_and_the_page_have_all_of_each() -> None:
    listed, page = catalog.listing(), catalog.markdown()
    for name in plugins.names("datasets"):
        module = plugins.module("datasets", name)
        assert f"## {name}\n" in page
        assert module.LAYOUT in page
        for text in (plugins.summaries("datasets")[name], module.SOURCE, module.TERMS, *catalog.policies(module)):
            assert text in listed, (name, text)
            assert text in page, (name, text)


def test_the_page_is_fresh() -> None:
    """Made anew by `scotoma list datasets --markdown > docs/reference/datasets.md`."""
    path = Path(__file__).parents[2] / "docs" / "reference" / "datasets.md"
    assert path.read_text() == catalog.markdown()


def test_classes_of_masks_have_the_publishers_names() -> None:
    named = {name: module.MASK_CLASSES for name, module in catalog._modules().items() if hasattr(module, "MASK_CLASSES")}
    assert masks.parse(named["acdc"].split(",")) == ((1, 2, 3), ("right ventricle", "myocardium", "left ventricle"))
    assert masks.parse(named["brats"].split(",")) == ((1, 2, 4), ("necrotic core", "oedema", "enhancing tumour"))
    for text in (catalog.listing(), catalog.markdown()):
        assert "ask classes: --classes '1=right ventricle,2=myocardium,3=left ventricle'" in text
