"""The audit's page: problems with thumbnails, what could be a shortcut, and the cohort table. It reads pixels of stores."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma.reporting.cells import decimals
from scotoma.reporting.cohorts import composition
from scotoma.reporting.page import templates
from scotoma.run_folder import write_atomically

if TYPE_CHECKING:
    from scotoma.data.store.store import Store
    from scotoma.quality.findings import Finding, ImageId

Row = dict[str, Any]
THUMBNAIL = 96  # pixels
GROUPS, IN_GROUP, SINGLES = 12, 7, 14  # shown of each problem; the rows name all
MEANING = {
    "error": "Errors make results wrong. Mend them before training.",
    "warning": "Look at these before training: each can be harmless or spoil the results.",
    "note": "Worth knowing.",
}

ADVICE = {
    "unreadable": "Open one of them in a viewer: they may be damaged, or need a decoder that is not installed.",
    "patient": "The same person is learned from and tested on: put all images of a person on one side (scotoma split).",
    **dict.fromkeys(
        ("group", "study", "series", "file"),
        "What belongs together is learned from and tested on: put each group on one side (scotoma split).",
    ),
    "identical": "A network that has seen an image in training is not tested by it. Keep one, or keep all on one side.",
    "near_duplicate": "Look: one image saved twice belongs on one side (scotoma split --copies); repeated films may be harmless.",
    **dict.fromkeys(
        ("near_duplicate_of_one_patient", "altered_copy_of_one_patient"),
        "Nothing to do: a split by patient keeps them on one side.",
    ),
    "one_unit": "Look: is it one patient, or one identifier that many share?",
    "altered_copy": "Such copies are often made to enlarge a data set: `scotoma split --copies` keeps them on one side.",
    "contradicting_labels": "One of the labels is wrong, or the label is not in the image: consult an annotator.",
    "header_predicts": "The classes may come from different sources. A network can learn the source: test on data from elsewhere.",
    "border_predicts": "Markers, cropping or the source may separate the classes, or the disease may reach the border: look.",
    "constant": "Leave them out, or export them anew.",
    "nearly_blank": "Empty slices or failed exports: leave them out unless they mean something.",
    "inverted": "A negative (MONOCHROME1 exported as it is stored) must be inverted before training.",
    "burned_in_text": "Text may name a patient, and may separate the classes: look, and cover it.",
    "identifying_header": "Scotoma keeps none of these. De-identify the files before they leave the hospital.",
    "small_class": "Results of so small a class are uncertain: join it with another, or gather more.",
}


def write(path: Path, names: tuple[str, str | None], findings: Sequence[Finding], rows: Sequence[Row], stores: Sequence[Store],
          captions: dict[ImageId, str]) -> None:  # fmt: skip
    """Write the page, one file with its images inside.

    Args:
        path: of the page.
        names: of the data, and of those they were compared with (None: with none).
        findings: worst first.
        rows: counts, predictions and the cohort, as the run folder has them.
        stores: of the data, and of the other.
        captions: what stands below a thumbnail.

    Raises:
        RunError: it cannot be written.
    """
    environment = templates()
    shown = {p for f in findings for p in _images(f)}
    content = {
        "name": names[0],
        "other": names[1],
        "meaning": MEANING,
        "findings": [_add_thumbnails(f, captions) for f in findings],
        "counts": {s: sum(f.severity == s for f in findings) for s in MEANING},
        "images": {p: _uri(stores[p[0]], p[1]) for p in sorted(shown)},
        "shortcuts": [_shortcut(r) for r in rows if r["metric"] == "auroc"],
        "cohort": composition(rows),
        "classes": _classes(rows),
    }
    write_atomically(path, environment.get_template("audit.html.jinja").render(**content))


def _images(f: Finding) -> list[ImageId]:
    return [p for g in f.groups[:GROUPS] for p in g[:IN_GROUP]] if f.groups else list(f.images[:SINGLES])


def _add_thumbnails(f: Finding, captions: dict[ImageId, str]) -> dict[str, Any]:
    """A finding with the thumbnails that are shown of it, those of a group side by side."""
    groups = [g[:IN_GROUP] for g in f.groups[:GROUPS]] if f.groups else [f.images[:SINGLES]] if f.images else []
    more = len(f.groups) - GROUPS if f.groups else len(f.images) - SINGLES
    return {
        "severity": f.severity,
        "text": f.text,
        "advice": next((words for check, words in ADVICE.items() if f.check.startswith(check)), ""),
        "groups": [{"images": [(p, captions.get(p, f"row {p[1]}")) for p in g]} for g in groups],
        "more": f"{more} more {'groups' if f.groups else 'images'} are named in rows.jsonl." if more > 0 else "",
    }


def _uri(store: Store, row: int) -> str:
    from PIL import Image

    pixels = store.pixels[row]
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _shortcut(row: Row) -> dict[str, str]:
    what = {"header": "Size, format and header facts", "border": "Pixels along the border"}[row["from"]]
    bounds = f"{decimals(row['low'])} to {decimals(row['high'])}"
    verdict = "predicts it" if row["low"] > 0.5 else "no evidence"
    return {"target": row["target"], "from": what, "value": decimals(row["value"]), "bounds": bounds, "verdict": verdict}


def _classes(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Column -> its categories with the number of images."""
    found: dict[str, list[tuple[str, int]]] = {}
    for r in rows:
        if r["evaluator"] == "audit" and r["metric"] == "images" and "split" not in r:
            found.setdefault(r["column"], []).append((r["class"], r["value"]))
    return list(found.items())


def print_findings(name: str, count: int, findings: list[Finding], rows: list[dict[str, Any]]) -> None:
    """The problems, worst first, then the cohort's differences."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    grid = Table("", "problem", "rows", title=f"{escape(name)}: {count} images", title_justify="left", show_edge=False)
    for f in findings:
        ids = [str(i) for k, i in f.images if k == 0]
        shown = ", ".join(ids[:6]) + (", ..." if len(ids) > 6 else "")
        grid.add_row(f"[{colours[f.severity]}]{f.severity}[/]", escape(f.text), shown)
    console.print(grid if findings else f"{escape(name)}: {count} images, no problem found")
    unlike = [r for r in rows if r["evaluator"] == "cohort" and r["metric"] == "difference" and abs(r["value"]) > 0.1]
    for r in unlike:
        console.print(f"{escape(r['column'])} differs between train and {r['split']}: standardised difference {r['value']:.2f}")
