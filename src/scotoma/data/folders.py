"""What a folder of images holds: its files, and what the names of its folders mean (``train|val|test/``, a class, a patient).

What is left out, and what a folder's name was taken as, is counted and printed. Folder names stand in no line: they may name a
patient, and for the same reason a folder per patient or study becomes ``group``, of which stores and rows hold keyed hashes, and
never ``label``.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotoma.data.io import read as images
from scotoma.data.labels.columns import SPLIT_NAMES
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 100
MOST_KINDS = 12  # of what is left out, printed by name
# Names of folders without blanks and punctuation: Ground Truth, lung_masks, labelsTr (of nnU-Net), 1st_manual.
_MASK_FOLDER = re.compile(r".*masks?|annotations?|.*segmentations?|segs?|.*groundtruth|gt|labels?(tr|ts|va)?|(1st|2nd)?manual")
_IMAGE_FOLDER = re.compile(r"images?(tr|ts|va)?|imgs?")  # states what it holds: neither it nor what lies beside it is a class
_MASK_WORD = r"(masks?|segs?|segmentations?|labels?|gt|manual\d?)"
_SUFFIX = re.compile(r"(\.nii\.gz|\.[a-z]\w{1,5})$")
_NO_IMAGES = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".html",
    ".pdf",
    ".xlsx",
    ".md",
    ".yaml",
    ".log",
    ".py",
    ".zip",
)  # not opened
_KNOWN_SUFFIXES = {
    *_NO_IMAGES,
    ".svs",
    ".ndpi",
    ".mha",
    ".mhd",
    ".nrrd",
    ".bval",
    ".bvec",
    ".db",
    ".ini",
    ".parquet",
    ".h5",
    ".npy",
}
_UNIT_WORD = r"(p|pt|pat|patient|person|sub|subj|subject|case|study|exam|series|se|st|acc|accession|mrn|id|volunteer)"
_UNIT_NAME = re.compile(rf".*\d{{4}}.*|{_UNIT_WORD}[\W_]*\d.*|.*[\^,].*", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)[_-](0\d{3}|t1\w{0,2}|t2\w?|flair|adc|dwi|swi|pd)")  # of volumes, as nnU-Net and BraTS name them
_NUMBERED = re.compile(r"\d{1,3}")  # may begin anew in each class


def read(root: Path, has_label: bool = True) -> pd.DataFrame:
    """The table of a folder: ``image_path``, and where known ``frame``, ``split``, ``label`` and ``group`` (as it came).

    Args:
        root: the folder.
        has_label: whether names of folders may be a label.

    Raises:
        UsageError: it holds no images.
    """
    import pandas as pd

    files, left = _files(root)
    folders = {path: path.relative_to(root).parts[:-1] for path in files}
    masks = _mask_files(folders)
    left["masks in a folder of their own (name them as mask_path)"] = len(masks)
    beside = _find_masks_beside(path for path in files if path not in masks)
    left["masks beside their images (name them as mask_path)"] = len(beside)
    files = [path for path in files if path not in masks and path not in beside]
    frames = {}
    for path in files:
        frames[path], extra, reason = _frames(path)
        left[reason] += extra
    files = [path for path in files if len(frames[path])]
    if sum(left.values()):
        notice(root.name, f"left out: {_counts(left)}")
    if not files:
        raise UsageError(f"{root}: no images in this folder (PNG, JPEG, TIFF, GIF, WebP, DICOM, NIfTI)")
    alone = _count_single_folders([folders[path] for path in files])
    folders = {path: folders[path][alone:] for path in files}
    splits = {path: SPLIT_NAMES.get(folders[path][0].lower()) if folders[path] else None for path in files}
    inner = {path: folders[path][1:] if splits[path] else folders[path] for path in files}
    labels, groups = _read_meaning(root, files, inner, splits, has_label)
    records = [
        {"image_path": str(path.absolute()), "split": splits[path], "label": label, "group": group, "frame": frame}
        for path, label, group in zip(files, labels, groups, strict=True)
        for frame in frames[path]
    ]
    table = pd.DataFrame(records)
    return table.drop(columns=[c for c in ("split", "label", "group", "frame") if table[c].isna().all()])


def _count_single_folders(folders: list[tuple[str, ...]]) -> int:
    """How many levels above all files hold one folder alone: ``chest_xray/chest_xray/train``; but for one of a split."""
    first = folders[0]
    same = (k for k, name in enumerate(first) if name.lower() in SPLIT_NAMES or any(f[k : k + 1] != (name,) for f in folders))
    return next(same, len(first))


def _files(root: Path) -> tuple[list[Path], Counter[str]]:
    """The images below a folder in natural order, and how many files are left out of each kind."""
    found: list[Path] = []
    left: Counter[str] = Counter()
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                inside = list(entries)
        except OSError:
            left["folders that cannot be opened"] += 1
            continue
        for entry in inside:
            kind = _kind(entry)
            if kind == "folder":
                waiting.append(entry.path)
            elif kind:
                left[kind] += 1
            else:
                found.append(Path(entry.path))
    return sorted(found, key=lambda path: natural(str(path))), left


def _kind(entry: os.DirEntry[str]) -> str:
    """What is left out: its kind. "folder" is gone through, and "" is an image."""
    name = entry.name.lower()
    if (
        not name.isascii() and name.encode(errors="replace").decode() != name
    ):  # bytes that a table, JSON and Parquet have no words for
        return "names that are not UTF-8"
    if entry.is_dir(follow_symlinks=False):
        return "hidden folders" if name.startswith(".") or name == "__macosx" else "folder"
    if name.startswith("._"):
        return "AppleDouble files"
    if name.startswith("."):
        return "hidden files"
    try:
        if not entry.is_file():
            return "linked folders" if entry.is_dir() else "links or devices that are no files"
    except OSError:  # a loop of links
        return "links or devices that are no files"
    if name in ("dicomdir", "thumbs.db", "desktop.ini"):
        return {"dicomdir": "DICOMDIR", "thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}[name]
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 (a million files)
    if suffix not in _NO_IMAGES and images.is_image(entry.path):
        return ""
    if not suffix:
        return "files without suffix"
    # A suffix that nobody knows may be part of a name (``scan.meier``).
    return suffix if suffix in _KNOWN_SUFFIXES or suffix in mimetypes.types_map else "others"


def _counts(left: Counter[str]) -> str:
    kinds = [(kind, count) for kind, count in left.most_common() if count]
    shown = [f"{count} {kind}" for kind, count in kinds[:MOST_KINDS]]
    rest = sum(count for _, count in kinds[MOST_KINDS:])
    return ", ".join(shown + ([f"{rest} of other kinds"] if rest else []))


def _frames(path: Path) -> tuple[Sequence[int | None], int, str]:
    """The frames of a file that are images, how many are not, and what these are."""
    try:
        numbers, count = images.frame_numbers(str(path))
    except images.ImageError:
        return [None], 0, ""  # stays in the table, so that it is listed among the unreadable
    if not count:
        return [], 1, "DICOM objects that are no images (reports, segmentations, structures)"
    single = list(numbers) == [0]
    return [None] if single else numbers, count - len(numbers), "reduced, label or macro pages of TIFF files"


def _mask_files(folders: dict[Path, tuple[str, ...]]) -> set[Path]:
    """Files in a folder named as one of masks, where most of these share a name with a file elsewhere."""
    named = {part for parts in folders.values() for part in parts if _MASK_FOLDER.fullmatch(_bare(part))}
    masks = {path for path, parts in folders.items() if not named.isdisjoint(parts)}
    others = {name for path in folders if path not in masks for name in _names(path)}
    own = (re.sub(rf"[_-]?{_MASK_WORD}$", "", _stem(path)) for path in masks)
    return masks if masks and sum(name in others for name in own) > len(masks) / 2 else set()


def _find_masks_beside(files: Iterable[Path]) -> set[Path]:
    """Files named as the mask of another in their folder: ``7_mask.png`` beside ``7.png``, ``7_seg.nii`` beside ``7_t1.nii``."""
    masks: dict[Path, re.Match[str]] = {}
    others: set[tuple[Path, str]] = set()
    whole: set[tuple[Path, str]] = set()
    for path in files:
        if found := re.fullmatch(rf"(.+?)[\s_.-]+{_MASK_WORD}([\s_.-]?\d+)?", _stem(path)):
            masks[path] = found
        else:
            whole.add((path.parent, _stem(path)))
            others.update((path.parent, name) for name in _names(path))
    return {path for path, found in masks.items() if (path.parent, found[1]) in (whole if found[3] else others)}


def _names(path: Path) -> Iterable[str]:
    """What the mask of an image may be called: its name, without its last part where that is a modality or a channel."""
    yield (name := _stem(path))
    yield re.sub(r"(?<=.)[_-][^_-]+$", "", name)


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.name.lower())


def _bare(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name).lower()


def _read_meaning(
    root: Path, files: list[Path], inner: dict[Path, tuple[str, ...]], splits: dict[Path, str | None], has_label: bool
) -> tuple[list[str | None], list[str | None]]:
    """The label and the group of each file by the names of the folders above it; what was taken as what is printed.

    The first level of several folders is the label, unless it is one per patient or study; below a label, the first such level
    is the group. Levels of one folder are passed over, and those with a folder of ``images``.
    """
    label = group = None
    split = any(splits.values())  # then the folders beside train and test say nothing by themselves
    for depth in range(max(map(len, inner.values()))):
        at: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            if len(inner[path]) > depth and (splits[path] or not split):
                at[inner[path][depth]].append(path)
        if len(at) < 2 or any(_IMAGE_FOLDER.fullmatch(_bare(name)) for name in at):
            continue
        if _is_unit(at):
            group = depth
            break
        if label is None:
            label = depth
    labels = [_part(inner[path], label if has_label else None) for path in files]
    if label is not None and split:  # a folder beside train and test is a class only if it is one inside them
        classes = {name for path, name in zip(files, labels, strict=True) if splits[path]}
        labels = [name if name in classes else None for name in labels]
    groups = [_unit_key(root, path, inner[path], group) for path in files]
    for text in _report_meaning(files, labels, groups, splits):
        notice(root.name, text)
    cases = _cases(root, files)
    if cases and not any(groups):
        notice(
            root.name,
            f"group: {len({*cases.values()})} cases, kept together: their volumes differ in the channel that ends the name",
        )
        groups = [cases.get(path) for path in files]
    return labels, groups


def _cases(root: Path, files: list[Path]) -> dict[Path, str]:
    """Volume -> its case, where several cases are there and one has several channels: ``case_0000.nii.gz``, ``case-t1.nii``."""
    found: dict[Path, str] = {}
    for path in files:
        if ".nii" in path.suffixes and (channel := _CHANNEL.fullmatch(_stem(path))):
            found[path] = f"{path.parent.relative_to(root)}/{channel[1]}"
    count = Counter(found.values())
    return {path: case for path, case in found.items() if count[case] > 1} if len(count) > 1 else {}


def _report_meaning(
    files: list[Path], labels: list[str | None], groups: list[str | None], splits: dict[Path, str | None]
) -> Iterable[str]:
    def rest(column: Iterable[Any]) -> str:
        missing = sum(value is None for value in column)
        return f"; {missing} files have none" if missing else ""

    if any(splits.values()):
        yield "split: the folder's name" + rest(splits.values())
    if any(labels):
        yield f"label: the folder's name, {len({*labels} - {None})} classes" + rest(labels)
    if any(groups):
        yield (
            f"group: the folder's name, {len({*groups} - {None})} units: a folder per patient or study is no label, and its images "
            "are kept together" + rest(groups)
        )


def _part(parts: tuple[str, ...], depth: int | None) -> str | None:
    return parts[depth] if depth is not None and len(parts) > depth else None


def _unit_key(root: Path, path: Path, parts: tuple[str, ...], depth: int | None) -> str | None:
    """What distinguishes a patient's or study's folder from others: its name, or where that is a short number, more of its path."""
    name = _part(parts, depth)
    if name is None or depth is None:
        return None
    above = path.relative_to(root).parts
    way = above[: len(above) - 1 - len(parts) + depth + 1]
    return "/".join(way) if _NUMBERED.fullmatch(name) else name


def _is_unit(at: dict[str, list[Path]]) -> bool:
    """Whether the folders of one level are one per patient, study or series: by number, by name, or by what DICOM headers state."""
    count, files = len(at), sum(map(len, at.values()))
    if count > MOST_CLASSES or (count > 3 and 2 * count > files) or (count > 10 and count**2 > files):
        return True
    if sum(_UNIT_NAME.fullmatch(name) is not None for name in at) >= 0.8 * count:
        return True
    if sum(len(inside) > 1 for inside in at.values()) < count / 2:
        return False
    sampled = [[images.read_owners(str(p)) for p in (inside[0], inside[len(inside) // 2], inside[-1])] for inside in at.values()]
    for kind in (0, 1):  # patients, studies
        of_folders = [{owners[kind] for owners in folder} for folder in sampled]
        if all(len(of) == 1 for of in of_folders) and len(set.union(*of_folders) - {None}) == count:
            return True
    return False


def natural(text: str) -> list[Any]:
    """A key that sorts numbers within names by their value."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", text)]
