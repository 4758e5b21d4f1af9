from __future__ import annotations

from pathlib import Path

import pytest
from helpers.lookalike import column, draw_image, hashed, text, under

from scotoma.data import sources
from scotoma.data.datasets import mimic_cxr_jpg
from scotoma.errors import UsageError

IMAGES = {  # image -> subject, study, view
    "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014": (10000032, 50414267, "PA"),
    "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962": (10000032, 50414267, "LATERAL"),
    "2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab": (10000032, 53189527, "AP"),
    "68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714": (19999987, 58621812, ""),
}
PATHS = [f"files/p{str(subject)[:2]}/p{subject}/s{study}/{name}.jpg" for name, (subject, study, _) in IMAGES.items()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of two patients; the last study has no labels; columns and their order as published."""
    for path in PATHS:
        draw_image(tmp_path / path)
    text(
        tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        *[
            f"{n},{p},{s},CHEST (PA AND LAT),{v},3056,2544,21800506,213014.531,CHEST (PA AND LAT),x,Erect"
            for n, (p, s, v) in IMAGES.items()
        ],
    )
    text(
        tmp_path / "mimic-cxr-2.0.0-chexpert.csv",
        "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
        "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices",
        "10000032,53189527,,,,,,,,,1.0,,,,,",
        "10000032,50414267,-1.0,0.0,,1.0,,,,,,1.0,,,0.0,",
    )
    text(
        tmp_path / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        *[f"{n},{s},{p},{'validate' if p == 19999987 else 'train'}" for n, (p, s, _) in IMAGES.items()],
    )
    return tmp_path


def test_images_patients_studies_views_and_split(root: Path) -> None:
    found = mimic_cxr_jpg.load(root)
    assert under(found, root) == PATHS
    assert column(found, "patient") == [hashed("p10000032")] * 3 + [hashed("p19999987")]
    assert column(found, "study") == [hashed(f"s{s}") for _, s, _ in IMAGES.values()]
    assert column(found, "view") == ["PA", "LATERAL", "AP", None]
    assert column(found, "split") == ["train"] * 3 + ["val"]
    assert not {"subject_id", "study_id", "dicom_id", "StudyDate"} & set(found.table.columns)
    assert "10000032" not in found.table.drop(columns="image_path").to_csv()


@pytest.mark.parametrize(
    ("query", "atelectasis", "pneumonia"),
    [
        ("", [None, None, None, None], [None] * 4),
        ("?uncertain=1", [1, 1, None, None], [None] * 4),
        ("?uncertain=0&blank=0", [0, 0, 0, None], [0, 0, 0, None]),  # a study without labels stays without
        ("?blank=0", [None, None, 0, None], [0, 0, 0, None]),
    ],
)
def test_uncertain_and_blank_are_what_the_policy_says(root: Path, query: str, atelectasis: list, pneumonia: list) -> None:
    found = sources.load(f"mimic-cxr:{root}{query}")
    assert column(found, "atelectasis") == atelectasis
    assert column(found, "pneumonia") == pneumonia
    assert column(found, "cardiomegaly")[:2] == [0, 0]
    assert column(found, "edema")[:2] == [1, 1]
    assert column(found, "no_finding")[2] == 1


def test_a_partial_download(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / PATHS[1]).unlink()
    assert under(mimic_cxr_jpg.load(root), root) == [PATHS[0], PATHS[2], PATHS[3]]
    assert "1 of 4 images" in capsys.readouterr().err
    for path in (PATHS[0], *PATHS[2:]):
        (root / path).unlink()
    with pytest.raises(UsageError, match=r"no image of the 4 of mimic_cxr_jpg there; expected .*files/p10"):
        mimic_cxr_jpg.load(root)
