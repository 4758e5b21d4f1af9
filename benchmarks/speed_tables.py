"""Tables of how fast Scotoma is and what that is worth, beside other programs."""

from __future__ import annotations

import json

from cells import NAMES, RESULTS, cell

SIDES = {"lightly": "lightly with Scotoma's batch size, optimiser and schedule", "lightly_own": "lightly as its examples have it"}
OTHERS = {
    "lightly": "lightly, our batch and optimiser",
    "lightly_own": "lightly, its own",
    "transformers": "transformers' ViTMAE",
    "published": "MSMAE as published",
    "lightly-train": "lightly-train",
}
FIVE_MINUTES = 300


def rates_table() -> str:
    """Images a second, first step and memory of Scotoma beside each other side, a line a method and side."""
    found = json.loads((RESULTS / "peers_rates.json").read_text())
    head = ["method", "beside", "images/s", "ratio", "first step, s", "ratio", "memory, GiB", "images in five minutes", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for case, rate in found["rates"].items():
        network = case.partition("@")[2]
        name = NAMES.get(case.partition("?")[0].partition("@")[0], case.partition("?")[0].partition("@")[0])
        name += f", {network}" if network else ""
        name += f", {case.partition('?')[2].partition('@')[0].replace('&', ', ')}" if "?" in case else ""
        ours = rate.get("scotoma_process")
        for side, words in OTHERS.items():
            if side not in rate:
                continue
            cells = [name, words, f"{rate['scotoma']:.0f}, {rate[side]:.0f}", f"{rate['scotoma'] / rate[side]:.2f}"]
            theirs = rate.get(f"{side}_process")
            if ours and theirs:
                first, memory = (ours["first_step"], theirs["first_step"]), (ours["own_bytes"], theirs["own_bytes"])
                seen = (
                    (FIVE_MINUTES - first[0] - found["seconds_preparing"]) * rate["scotoma"],
                    (FIVE_MINUTES - first[1]) * rate[side],
                )
                cells += [f"{first[0]:.1f}, {first[1]:.1f}", f"{first[1] / first[0]:.2f}"]
                cells += [
                    ", ".join(f"{m / 2**30:.2f}" for m in memory),
                    f"{seen[0]:,.0f}, {seen[1]:,.0f}",
                    f"{seen[0] / seen[1]:.2f}",
                ]
            lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    told = ", ".join(f"`{words}` {seconds:.1f}" for words, seconds in found.get("help", {}).items())
    return "\n".join(lines) + "\n" + (f"\nSeconds of {told}.\n" if told else "")


def limits_table() -> str:
    """Where a training step's time goes, method by method."""
    found = json.loads((RESULTS / "limits.json").read_text())["methods"]
    parts = ("data", "views", "loss", "gradients", "optimiser", "after")
    head = ["method", "network", "images/s", *(f"{part}, ms" for part in parts), "bare step's share", "share of matmul rate"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, one in found.items():
        times = [f"{1000 * one['seconds'][part]:.1f}" for part in parts]
        shares = [f"{one[key]:.1%}" for key in ("bare_share", "share_of_matmul")]
        cells = [NAMES.get(name, name), one["encoder"], f"{one['images_per_second']:.0f}", *times, *shares]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def quality_table() -> str:
    """AUROC of both sides' encoders on equal wall-clock time, and the difference; a table for each way to set lightly up."""
    found = json.loads((RESULTS / "peers_quality.json").read_text())
    seen, parts = found["images_seen"], []
    for side, words in SIDES.items():
        rows = [r for r in found["rows"] if r["side"] == side]
        if not rows:
            continue
        fractions = sorted({r["fraction"] for r in rows})
        head = [
            "method",
            *(f"{f:.0%}: Scotoma, lightly" for f in fractions),
            *(f"difference at {f:.0%}" for f in fractions),
            "images seen",
        ]
        parts.append(f"{words}:\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|\n")
        for name in dict.fromkeys(r["method"] for r in rows):
            mine = {r["fraction"]: r for r in rows if r["method"] == name}
            both = [f"{mine[f]['scotoma']:.3f}, {mine[f]['lightly']:.3f}" if "scotoma" in mine[f] else "" for f in fractions]
            differences = [cell({**mine[f], "value": mine[f]["difference"]}, "+") for f in fractions]
            images = f"{seen[name]['scotoma']:,.0f}, {seen[name][side]:,.0f}" if name in seen else ""
            parts.append("| " + " | ".join([NAMES.get(name, name), *both, *differences, images]) + " |\n")
        parts.append("\n")
    return "".join(parts)


def beside_table() -> str:
    """In short: images a second and AUROC at the fewest labels, beside lightly as its examples have it."""
    rates = json.loads((RESULTS / "peers_rates.json").read_text())["rates"]
    rows = [r for r in json.loads((RESULTS / "peers_quality.json").read_text())["rows"] if r["side"] == "lightly_own"]
    fewest = min(r["fraction"] for r in rows)
    head = ["method", "images/s: Scotoma, lightly", "ratio", f"AUROC at {fewest:.0%} of the labels: Scotoma, lightly", "difference"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in (r for r in rows if r["fraction"] == fewest):
        rate = rates.get(row["method"])
        speeds = (
            [f"{rate['scotoma']:.0f}, {rate['lightly_own']:.0f}", f"{rate['scotoma'] / rate['lightly_own']:.1f}"]
            if rate
            else ["", ""]
        )
        both = f"{row['scotoma']:.3f}, {row['lightly']:.3f}" if "scotoma" in row else ""
        cells = [NAMES.get(row["method"], row["method"]), *speeds, both, cell({**row, "value": row["difference"]}, "+")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
