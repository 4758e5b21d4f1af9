"""Writes docs/results.md and the README's table from the rows of studies kept under benchmarks/results/.

python benchmarks/tables.py keep NAME RUN   copies the summary rows and the configuration of a study
python benchmarks/tables.py write           writes the tables between their markers
python benchmarks/tables.py check           exits 1 where a table is not what the rows say
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KEPT = ("auroc", "auroc_difference", "images_per_second", "images_seen", "steps", "seconds", "peak_memory_bytes", "effective_rank")
NAMES = {
    "simclr": "SimCLR",
    "mae": "MAE",
    "random": "random weights",
    "pixels": "pixels at 32 px",
    "header": "size and header",
    "majority": "majority",
}
KINDS = {"jpeg": "JPEG", "png": "PNG", "dicom": "DICOM, 12 bits, raw", "dicom_jpeg2000": "DICOM, 12 bits, JPEG 2000"}


def keep(name: str, run: Path) -> None:
    """Copy a study's summary rows and configuration."""
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    kept = [r for r in rows if r["metric"] in KEPT and r.get("seed") is None and r.get("class") is None]
    (RESULTS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    data = str(Path(os.environ.get("SCOTOMA_DATA", "../shared/data")).resolve())
    (RESULTS / f"{name}.yaml").write_text((run / "config.yaml").read_text().replace(data, "$SCOTOMA_DATA"))


def read(name: str) -> list[dict[str, Any]]:
    """The kept rows of a study."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def label(row: dict[str, Any]) -> str:
    """What a row's classifier is called."""
    if row["method"] == "control":
        return NAMES[row["evaluator"]]
    use = "fine-tuned" if row["evaluator"] == "finetune" else row["evaluator"]
    return f"{NAMES.get(row['method'], row['method'])}, {row['encoder']}, {use}"


def study_table(name: str) -> str:
    """AUROC by label fraction, then the paired differences from random weights."""
    rows = read(name)
    scores = [r for r in rows if r["metric"] == "auroc"]
    fractions = sorted({r["fraction"] for r in scores})
    counts = {r["fraction"]: r["labels"] for r in scores}
    head = "| | " + " | ".join(f"{f:.0%} ({counts[f]} labels)" for f in fractions) + " |\n|---|" + "---|" * len(fractions) + "\n"
    parts = ["Macro AUROC [95 % interval]:\n\n", head]
    for line in dict.fromkeys(map(label, scores)):
        by = {r["fraction"]: r for r in scores if label(r) == line}
        parts.append(f"| {line} | " + " | ".join(cell(by.get(f), "") for f in fractions) + " |\n")
    differences = [r for r in rows if r["metric"] == "auroc_difference"]
    if differences:
        parts += ["\nDifference from random weights, same labels and same test pictures [95 % interval]:\n\n", head]
        for line in dict.fromkeys(map(label, differences)):
            by = {r["fraction"]: r for r in differences if label(r) == line}
            parts.append(f"| {line} | " + " | ".join(cell(by.get(f), "+") for f in fractions) + " |\n")
    if not any(r["evaluator"] == "pretrain" for r in rows):
        return "".join(parts)
    parts += [
        "\n| pretraining | images seen | steps | seconds | images/s, end to end | effective rank |\n|---|---|---|---|---|---|\n"
    ]
    for method in dict.fromkeys(r["method"] for r in rows if r["evaluator"] == "pretrain"):
        v = {r["metric"]: r["value"] for r in rows if r["evaluator"] == "pretrain" and r["method"] == method}
        parts.append(
            f"| {NAMES.get(method, method)} | {v['images_seen']:,.0f} | {v['steps']:,.0f} | {v['seconds']:.0f} | "
            f"{v['images_per_second']:.0f} | {v['effective_rank']:.0f} |\n"
        )
    return "".join(parts)


def choices_table() -> str:
    """How each setting did on validation rows, the chosen one of each method in bold."""
    rows = [{**row, "method": NAMES[row["method"]]} for row in read("choices")]
    best = {m: max(r["mean"] for r in rows if r["method"] == m) for m in {r["method"] for r in rows}}
    parts = ["| method | setting | read-out | 1% | 5% | 10% | mean |\n|---|---|---|---|---|---|---|\n"]
    for row in rows:
        mean = f"**{row['mean']:.3f}**" if row["mean"] == best[row["method"]] else f"{row['mean']:.3f}"
        values = " | ".join(f"{value:.3f}" for value in row["auroc"].values())
        parts.append(f"| {row['method']} | {row['setting']} | {row['readout']} | {values} | {mean} |\n")
    return "".join(parts)


def methods_table() -> str:
    """Every method on one budget: linear probes at each fraction, its gain over random weights, and what it took."""
    rows = read("methods")
    scores = [r for r in rows if r["metric"] == "auroc" and r["evaluator"] == "linear"]
    fractions = sorted({r["fraction"] for r in scores})
    head = ["method", "network", *(f"{f:.0%}" for f in fractions), *(f"gain at {f:.0%}" for f in fractions), "minutes", "images/s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    order = sorted({(r["encoder"], r["method"] != "random", r["method"]) for r in scores})
    for encoder, _, method in order:
        mine = [r for r in rows if r["method"] == method and r.get("encoder") == encoder]
        cost = {r["metric"]: r["value"] for r in mine if r["evaluator"] == "pretrain"}
        cells = [cell(_one(mine, "auroc", f), "") for f in fractions] + [
            cell(_one(mine, "auroc_difference", f), "+") for f in fractions
        ]
        took = [f"{cost['seconds'] / 60:.1f}", f"{cost['images_per_second']:.0f}"] if cost else ["", ""]
        lines.append("| " + " | ".join([NAMES.get(method, method), encoder, *cells, *took]) + " |")
    return "\n".join(lines) + "\n"


def preparing_table() -> str:
    """Files to an array of small squares, beside two other loaders."""
    found = json.loads((RESULTS / "preparing.json").read_text())
    lines = ["| files | pictures/s | torchvision | MONAI | MB/s | ratio to the better |", "|---" * 6 + "|"]
    for side, formats in found.items():
        for name, kind in KINDS.items():
            if isinstance(formats, dict) and name in formats:
                rates, megabytes = formats[name]["images_per_second"], formats[name]["megabytes_per_second"]["scotoma"]
                others = [f"{rates[k]:.0f}" if k in rates else "" for k in ("torchvision", "monai")]
                ratio = formats[name]["ratio_to_the_better"]
                lines.append(
                    f"| {kind}, {side} | {rates['scotoma']:.0f} | {others[0]} | {others[1]} | {megabytes:.0f} | {ratio:.2f} |"
                )
    return "\n".join(lines) + "\n"


def hiding_table() -> str:
    """What to hide: mean AUROC over pretrainings with their range, and the gain over random masks, seed by seed."""
    lines = read("hiding")
    parts = []
    for name in dict.fromkeys(line["data"] for line in lines):
        mine = [line for line in lines if line["data"] == name]
        fractions = sorted({line["fraction"] for line in mine if "fraction" in line})
        parts.append(
            f"{name}:\n\n| hidden | "
            + " | ".join(f"{f:.0%} | gain over random" for f in fractions)
            + " | pictures seen |\n"
            + "|---" * (2 + 2 * len(fractions))
            + "|\n"
        )
        kinds = list(dict.fromkeys(line["kind"] for line in mine if "fraction" in line))
        for kind in kinds:
            cells = []
            for f in fractions:
                of = {
                    k: {x["seed"]: x["value"] for x in mine if x["kind"] == k and x.get("fraction") == f} for k in (kind, "random")
                }
                cells += [_spread(list(of[kind].values()), "")]
                gains = [value - of["random"][seed] for seed, value in of[kind].items()]
                cells += ["" if kind == "random" else _spread(gains, "+")]
            seen = [x["images_seen"] for x in mine if x["kind"] == kind and "images_seen" in x]
            cells.append(f"{sum(seen) / len(seen):,.0f}" if seen else "")
            parts.append("| " + " | ".join([kind, *cells]) + " |\n")
        parts.append("\n")
    return "".join(parts)


def _spread(values: list[float], sign: str) -> str:
    """A mean and the smallest and largest value."""
    return f"{sum(values) / len(values):{sign}.3f} ({min(values):{sign}.3f} to {max(values):{sign}.3f})"


def _one(rows: list[dict[str, Any]], metric: str, fraction: float) -> dict[str, Any] | None:
    return next((r for r in rows if r["metric"] == metric and r.get("fraction") == fraction), None)


def methods_page() -> str:
    """What each method needs, its two presets as commands, what they should give and cost."""
    from scotoma import plugins

    rows = read("methods") if (RESULTS / "methods.jsonl").exists() else []
    costs, parts = plugins.costs(), []
    for name, text in plugins.summaries("methods").items():
        chosen = plugins.method(name)
        mine = [r for r in rows if r["method"] == name and r["metric"] == "auroc" and r["evaluator"] == "linear"]
        random = {
            r["fraction"]: r
            for r in rows
            if r["method"] == "random" and r["metric"] == "auroc" and mine and r["encoder"] == mine[0]["encoder"]
        }
        needs = ", ".join(plugins.needs(name)) or "pictures alone"
        told = text.partition(": ")[2] or text
        parts.append(f"## {name}\n\n{told[0].upper()}{told[1:]}\n\nNeeds: {needs}.")
        extra = " --target COLUMN" if chosen.needs_labels else ""
        parts.append(
            f"Small preset: {chosen.default_encoder}, batches of {chosen.batch_size}, learning rate {chosen.learning_rate:g}.\n"
            f"\n```\nscotoma pretrain --data DATA --method {name}{extra} --minutes 5 --size 96 --out RUN\n```"
        )
        if mine:
            found = ", ".join(
                f"{r['value']:.3f} (random weights {random[r['fraction']]['value']:.3f}) at {r['fraction']:.0%}" for r in mine
            )
            parts.append(f"Linear probe, Brain MR, macro AUROC: {found} of the labels.")
        if name in costs:
            parts.append(f"A step costs {costs[name]:.1f} times one of supervised training of the same network.")
        if chosen.reference:
            settings = dict(chosen.reference)
            arguments = settings.pop("method_args", {})
            told = ", ".join(f"{k} {v}" for k, v in {**settings, **arguments}.items())
            command = f"scotoma pretrain --data DATA --method {name}{extra} --preset reference --out RUN"
            parts.append(f"The paper's preset ({told}):\n\n```\n{command}\n```")
    return "\n\n".join(parts) + "\n"


TABLES = {
    "choices": choices_table,
    "preparing": preparing_table,
    "hiding": hiding_table,
    "methods": methods_table,
    "methods_page": methods_page,
}


def cell(row: dict[str, Any] | None, sign: str) -> str:
    """A value with its interval."""
    return "" if row is None else f"{row['value']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def filled(text: str) -> str:
    """A document with every ``<!-- table NAME -->`` ... ``<!-- end -->`` filled from rows."""
    parts = text.split("<!-- table ")
    done = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->")
        _, _, after = rest.partition("<!-- end -->")
        done.append(f"<!-- table {name} -->\n{TABLES[name]() if name in TABLES else study_table(name)}<!-- end -->{after}")
    return "".join(done)


def main() -> int:
    """Keep, write or check."""
    if sys.argv[1:2] == ["keep"]:
        keep(sys.argv[2], Path(sys.argv[3]))
        return 0
    stale = 0
    for path in (ROOT / "docs" / "results.md", ROOT / "docs" / "methods.md", ROOT / "README.md"):
        text = path.read_text()
        if sys.argv[1:] == ["check"]:
            stale += filled(text) != text
        else:
            path.write_text(filled(text))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
