"""Writes the tables of docs/results and of the README from the rows of studies kept under benchmarks/results/.

python benchmarks/tables.py keep NAME RUN   copies the summary rows and the configuration of a study
python benchmarks/tables.py write           writes the tables between their markers
python benchmarks/tables.py check           exits 1 where a table is not what the rows say
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from cells import NAMES, RESULTS, cell, name_of, note, read, write
from speed_tables import beside_table, limits_table, quality_table, rates_table

ROOT = Path(__file__).parent.parent
KEPT = ("auroc", "auroc_difference", "images_per_second", "images_seen", "steps", "seconds", "peak_memory_bytes", "effective_rank")
KINDS = {"jpeg": "JPEG", "png": "PNG", "dicom": "DICOM, 12 bits, raw", "dicom_jpeg2000": "DICOM, 12 bits, JPEG 2000"}


def keep(name: str, run: Path) -> None:
    """Copy a study's summary rows and configuration."""
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    kept = [r for r in rows if r["metric"] in KEPT and r.get("seed") is None and r.get("class") is None]
    write(name, kept)
    data = str(Path(os.environ.get("SCOTOMA_DATA", "../shared/data")).resolve())
    (RESULTS / f"{name}.yaml").write_text((run / "config.yaml").read_text().replace(data, "$SCOTOMA_DATA"))


def label(row: dict[str, Any]) -> str:
    """What a row's classifier is called."""
    if row["method"] == "control":
        return NAMES[row["evaluator"]]
    use = "fine-tuned" if row["evaluator"] == "finetune" else row["evaluator"]
    return f"{name_of(row)}, {row['encoder']}, {use}"


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
    differences = [r for r in rows if r["metric"] == "auroc_difference" and r["reference"] == "random"]
    if differences:
        parts += ["\nDifference from random weights, same labels and same test images [95 % interval]:\n\n", head]
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
    order = sorted({(r["encoder"], r["method"] != "random", r["method"], r.get("control_of", "")) for r in scores})
    alike: dict[tuple[str, ...], list[str]] = {}  # lines, of controls that are the same network one -> of which methods
    for encoder, _, method, of in order:
        mine = [r for r in rows if r["method"] == method and r.get("encoder") == encoder and r.get("control_of", "") == of]
        cost = {r["metric"]: r["value"] for r in mine if r["evaluator"] == "pretrain"}
        cells = [cell(_one(mine, "auroc", f), "") for f in fractions] + [
            cell(_one(mine, "auroc_difference", f), "+") for f in fractions
        ]
        took = [f"{cost['seconds'] / 60:.1f}", f"{cost['images_per_second']:.0f}"] if cost else ["", ""]
        alike.setdefault((method, encoder, *cells, *took), []).append(of)
    for (method, *line), of_methods in alike.items():
        row = {"method": method} | ({"control_of": ",".join(of_methods)} if any(of_methods) else {})
        lines.append("| " + " | ".join([name_of(row), *line]) + " |")
    return "\n".join(lines) + "\n"


def preparing_table() -> str:
    """Files to an array of small squares, beside two other loaders."""
    found = json.loads((RESULTS / "preparing.json").read_text())
    lines = ["| files | images/s | torchvision | MONAI | MB/s | ratio to the better |", "|---" * 6 + "|"]
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
            + " | ".join(f"{f:.0%} | over random patches" for f in fractions)
            + " | images seen |\n"
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
            parts.append("| " + " | ".join([{"random": "random patches"}.get(kind, kind), *cells]) + " |\n")
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

    rows = read("methods")
    costs, parts = plugins.costs(), []
    for name, text in plugins.summaries("methods").items():
        chosen = plugins.method(name)
        mine = [r for r in rows if r["method"] == name and r["metric"] == "auroc" and r["evaluator"] == "linear"]
        random = {
            r["fraction"]: r
            for r in rows
            if r["method"] == "random" and r["metric"] == "auroc" and mine and r["encoder"] == mine[0]["encoder"]
            if r.get("control_of", name) == name
        }
        needs = ", ".join(plugins.needs(name)) or "images alone"
        told = text.partition(": ")[2] or text
        parts.append(f"## {name}\n\n{told[0].upper()}{told[1:]}\n\nNeeds: {needs}.")
        extra = " --target COLUMN" if chosen.needs_labels else ""
        parts.append(
            f"Small preset: {chosen.encoder_at(96)}, batches of {chosen.batch_size}, learning rate {chosen.learning_rate:g}.\n"
            f"\n```\nscotoma pretrain DATA --method {name}{extra} --minutes 5 --size 96 --out RUN\n```"
        )
        if mine:
            beside = {f: f" (random weights {r['value']:.3f})" for f, r in random.items()}
            found = ", ".join(f"{r['value']:.3f}{beside.get(r['fraction'], '')} at {r['fraction']:.0%}" for r in mine)
            parts.append(f"Linear probe, Brain MR, {mine[0]['encoder']}, macro AUROC: {found} of the labels.")
        if name in costs:
            cost, network = costs[name]["cost"], costs[name]["encoder"]
            parts.append(f"A step costs {cost:.1f} times one of supervised training of the same network ({network}, 96 px).")
        if chosen.reference:
            settings = dict(chosen.reference)
            arguments = settings.pop("method_args", {})
            told = ", ".join(f"{k} {v}" for k, v in {**settings, **arguments}.items())
            command = f"scotoma pretrain DATA --method {name}{extra} --preset reference --out RUN"
            parts.append(f"The paper's preset ({told}):\n\n```\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def robustness_table() -> str:
    """Relative drops of AUROC, a column a method: at each share of hidden patches; of each corruption the mean over severities."""
    rows = read("evidence_robustness")
    methods = list(dict.fromkeys(map(name_of, rows)))
    drop = "auroc_relative_drop"
    lines = ["| | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]

    def add(name: str, **wanted: Any) -> None:
        of = [next((r for r in rows if name_of(r) == m and all(r.get(k) == v for k, v in wanted.items())), None) for m in methods]
        if any(of):
            lines.append(f"| {name} | " + " | ".join(cell(r, "") for r in of) + " |")

    add("AUROC, clean", evaluator="robustness", metric="auroc", corruption="clean")
    for kind, words in (("patches", "patches painted over"), ("dropped_tokens", "patches dropped")):
        for share in sorted({r["severity"] for r in rows if r.get("corruption") == kind and r.get("severity")}):
            add(f"{share:.0%} of the {words}", metric=drop, corruption=kind, severity=share)
    hidden = {"patches", "dropped_tokens", "clean", None}
    for name in dict.fromkeys(r.get("corruption") for r in rows):
        if name not in hidden:
            words = "mean over corruptions" if name == "all" else f"{str(name).replace('_', ' ')}, mean over severities"
            add(words, metric=f"mean_{drop}", corruption=name)
    return "\n".join(lines) + "\n"


def proxies_table() -> str:
    """A line a way to pretrain and to balance: metrics and decisions at the chosen threshold; then AUROC by subgroup."""
    rows = read("evidence_proxies")
    arms = list(dict.fromkeys((r["way"], r["balance"]) for r in rows))

    def lines(head: dict[str, dict[str, Any]]) -> str:
        """A table of the rows that these keys single out."""
        found = ["| " + " | ".join(("pretraining", "balance", *head)) + " |", "|---" * (2 + len(head)) + "|"]
        for way, balance in arms:
            mine = [r for r in rows if (r["way"], r["balance"]) == (way, balance)]
            cells = [next((r for r in mine if wanted.items() <= r.items()), None) for wanted in head.values()]
            found.append(f"| {way} | {balance} | " + " | ".join(cell(r, "") for r in cells) + " |")
        return "\n".join(found) + "\n"

    head = {w: {"evaluator": "metrics", "metric": m} for w, m in (("AUROC", "auroc"), ("F1", "f1"), ("Matthews", "mcc"))}
    head |= {m: {"evaluator": "operating", "metric": m} for m in ("sensitivity", "specificity")}
    groups = {
        f"{r['column']} {r['subgroup']} ({r['patients']} patients)": {k: r[k] for k in ("evaluator", "column", "subgroup")}
        for r in rows
        if r["evaluator"] == "subgroups" and r["patients"] >= 10
    }
    return f"{lines(head)}\nAUROC by subgroup:\n\n{lines(groups)}"


def next_table() -> str:
    """Linear probes of made-up X-rays by what was asked in pretraining, a column a share of the labels."""
    rows = read("evidence_next")
    shares = sorted({r["fraction"] for r in rows})
    lines = ["| network | pretraining | " + " | ".join(f"{f:.0%}" for f in shares) + " |", "|---" * (2 + len(shares)) + "|"]
    for arm in dict.fromkeys((r["encoder"], r["way"]) for r in rows):
        cells = [cell(next((r for r in rows if (r["encoder"], r["way"]) == arm and r["fraction"] == f), None), "") for f in shares]
        lines.append("| " + " | ".join([*arm, *cells]) + " |")
    return "\n".join(lines) + "\n"


def explanations_table() -> str:
    """One line per method of explanation: do its maps find the lesion, are they faithful, do they depend on the weights?"""
    rows = read("evidence_explanations")
    columns = {
        "pointing_game": "pointing game", "pointing_game_random_weights": "the same, random weights",
        "pointing_game_exact": "without tolerance", "mask_iou": "overlap (IoU)",
        "deletion": "deletion (lower is better)", "insertion": "insertion", "sanity_correlation": "correlation with random weights",
    }  # fmt: skip
    heads = ["explanation", *columns.values(), "passes the randomisation test"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in dict.fromkeys(r["explanation"] for r in rows if r.get("explanation")):
        mine = {r["metric"]: r for r in rows if r.get("explanation") == name and not r.get("other")}
        sane = mine.get("sanity_passed", {}).get("value")
        words = "" if sane is None else "yes" if sane >= 0.5 else "no"
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cell(mine.get(c), "") for c in columns) + f" | {words} |")
    return "\n".join(lines) + "\n"


def segmentation_table() -> str:
    """Dice by share of the masks, and the difference from random weights."""
    rows = [r for r in read("evidence_segmentation") if r.get("seed") is None and r.get("reference", "random") == "random"]
    fractions = sorted({r["fraction"] for r in rows})
    lines = ["| | " + " | ".join(f"{f:.0%} of the masks" for f in fractions) + " |", "|---" * (len(fractions) + 1) + "|"]
    for data in dict.fromkeys(r["data"] for r in rows):
        for metric, sign in (("dice", ""), ("dice_difference", "+")):
            mine = [r for r in rows if r["data"] == data and r["metric"] == metric]
            for method in dict.fromkeys(r["method"] for r in mine):
                name = NAMES.get(method.partition("?")[0], method) + (" minus random weights" if sign else "")
                cells = [
                    cell(next((r for r in mine if r["method"] == method and r["fraction"] == f), None), sign) for f in fractions
                ]
                lines.append(f"| {data}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def coverage_table() -> str:
    """Coverage of intervals by kind and metric over cells, and the most that were missed on the better side."""
    titles = ("target", "metric", "patients", "cells", "held: least", "median", "most", "missed on the better side: most")
    groups: dict[tuple[str, bool, str], list[dict[str, Any]]] = {}
    for row in read("coverage"):
        groups.setdefault((row["kind"], row["few"], row["metric"]), []).append(row)
    order = list(dict.fromkeys(kind for kind, _, _ in groups))
    lines = ["| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|\n"]
    for (kind, few, metric), rows in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        counted = [{k: 100 * r[k] / (r["held"] + r["optimistic"] + r["pessimistic"]) for k in ("held", "optimistic")} for r in rows]
        held = sorted(c["held"] for c in counted)
        values = (held[0], median(held), held[-1], max(c["optimistic"] for c in counted))
        words = " | ".join(f"{value:.1f} %" for value in values)
        names = " | ".join((kind.replace("_", " "), metric.replace("_", " "), "too few" if few else "enough"))
        lines.append(f"| {names} | {len(rows)} | {words} |\n")
    return "".join(lines)


def null_table() -> str:
    """Differences of methods that learnt nothing from their untrained networks, by share of the labels."""
    rows = read("null_study")
    shares = sorted({row["fraction"] for row in rows})
    lines = ["| method | " + " | ".join(f"{share:.0%} of the labels" for share in shares) + " | least corrected p |"]
    lines.append("|---" * (len(shares) + 2) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["fraction"])
        cells = [cell(row, "+") for row in mine]
        lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + f" | {min(row['p_holm'] for row in mine):.2f} |")
    return "\n".join(lines) + "\n"


TABLES = {
    "coverage": coverage_table,
    "null_study": null_table,
    "peers_rates": rates_table,
    "peers_quality": quality_table,
    "beside_lightly": beside_table,
    "limits": limits_table,
    "robustness": robustness_table,
    "proxies": proxies_table,
    "next": next_table,
    "explanations": explanations_table,
    "segmentation": segmentation_table,
    "choices": choices_table,
    "preparing": preparing_table,
    "hiding": hiding_table,
    "methods": methods_table,
    "methods_page": methods_page,
}


def filled(text: str) -> str:
    """A document with every ``<!-- table NAME -->`` ... ``<!-- end -->`` filled from rows."""
    parts = text.split("<!-- table ")
    done = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->")
        _, _, after = rest.partition("<!-- end -->")
        table = TABLES[name]() if name in TABLES else study_table(name)
        done.append(f"<!-- table {name} -->\n{table}{note(name)}<!-- end -->{after}")
    return "".join(done)


def main() -> int:
    """Keep, write or check."""
    if sys.argv[1:2] == ["keep"]:
        keep(sys.argv[2], Path(sys.argv[3]))
        return 0
    stale = 0
    for path in (*sorted((ROOT / "docs" / "results").glob("*.md")), ROOT / "docs" / "reference" / "methods.md", ROOT / "README.md"):
        text = path.read_text()
        if sys.argv[1:] == ["check"]:
            stale += filled(text) != text
        else:
            path.write_text(filled(text))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
