"""The report's drawings: each function takes tidy tables and returns one SVG as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from scotoma.reporting import svg
from scotoma.reporting.cells import at, is_same
from scotoma.reporting.naming import title_of_use
from scotoma.reporting.results import ENCODERS, RULES, group_by_use, uses_of
from scotoma.reporting.svg import FAINT, INK, RULE, Style


def curve(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style], metric: str, perfect: float = 1.0) -> str:
    """A metric against the fraction of labels, with intervals; the panels side by side, on one scale.

    Args:
        panels: title and table with columns label, fraction, value, low, high.
        style: of every label.
        metric: what the vertical axis shows.
        perfect: the best value, at which the axis ends: 1, or 0 of an error.
    """
    columns = min(2, len(panels))
    with svg.panels(len(panels), columns, 3.1) as (axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            names = list(dict.fromkeys(table["label"]))
            for i, name in enumerate(names):
                rows = table[table["label"] == name].sort_values("fraction")
                # intervals at one fraction stand side by side, not on top of each other
                x = rows["fraction"] * 10 ** (0.018 * (i - (len(names) - 1) / 2))
                ax.plot(x, rows["value"], label=name, **style[name])
                bars = rows["low"].notna() & rows["high"].notna()
                ax.vlines(x[bars], rows["low"][bars], rows["high"][bars], color=style[name]["color"], linewidth=1)
            ticks = sorted(set(table["fraction"]))
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(ticks, [f"{100 * f:g}" for f in ticks])
            ax.set(title=svg.title(title, columns), xlabel="share of the training labels used (%)")
            svg.grid(ax)
        bottom = min((float(np.nanmin(t[["value", "low"]].to_numpy())) for _, t in panels), default=0.5)
        top = max((float(np.nanmax(t[["value", "high"]].to_numpy())) for _, t in panels), default=1.0)
        for ax in axes:
            ax.set_ylim(*((min(0.98, bottom) - 0.02, 1.005) if perfect else (0.0, 1.05 * top)))
            if metric == "AUROC":  # chance
                ax.axhline(0.5, color=FAINT, linewidth=0.7)
        axes[0].set_ylabel(metric)
        return finish(style)


def roc(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """ROC curves, one panel per class.

    Args:
        panels: title and table with columns label, fpr, value (the true-positive rate), low, high.
        style: of every label.
    """
    columns = {1: 2, 2: 2, 4: 4, 7: 4, 8: 4}.get(len(panels), 3)
    with svg.panels(len(panels), columns, svg.WIDTH / columns + 0.35, shared=True) as (axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            ax.plot([0, 1], [0, 1], color=RULE, linewidth=0.8)
            for i, name in enumerate(dict.fromkeys(table["label"])):
                rows = table[table["label"] == name].sort_values("fpr")
                every = max(1, len(rows) // 6)
                ax.plot(
                    rows["fpr"],
                    rows["value"],
                    label=name,
                    markevery=(i % every, every),
                    clip_on=False,
                    **style[name] | {"linewidth": 1.2},
                )
                if rows["low"].notna().any():
                    ax.fill_between(rows["fpr"], rows["low"], rows["high"], color=style[name]["color"], alpha=0.1, linewidth=0)
            ax.set(title=svg.title(title, columns), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
            ax.set(xlabel="1 \u2212 specificity", ylabel="sensitivity")
            ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
            ax.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
            svg.outer(ax)
            svg.grid(ax)
        return finish(style)


def confusion(panels: Sequence[tuple[str, pd.DataFrame]]) -> str:
    """Confusion matrices: the share of each row's images as shade and per cent, the count beneath.

    Args:
        panels: title and square table of counts, true classes as index, predicted ones as columns.
    """
    size = max(len(table) for _, table in panels)
    alike = all(list(table.index) == list(panels[0][1].index) for _, table in panels)
    columns = 3 if size <= 4 else 2 if size <= 7 else 1
    font = max(3.5, min(7.5, 72 * (svg.WIDTH / columns - 0.35) / size / 5.2))  # five characters fill a square
    with svg.panels(len(panels), columns, svg.WIDTH / columns + 0.35, shared=alike) as (axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            counts = table.to_numpy(dtype=float)
            total = counts.sum(1, keepdims=True)
            share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
            ax.pcolormesh(share, cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=1)
            for (i, j), s in np.ndenumerate(share):
                text = f"{100 * s:.0f} %\n{counts[i, j]:,.0f}"
                ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=font, color="white" if s > 0.65 else INK)
            ticks = np.arange(len(table)) + 0.5
            ax.set_xticks(ticks, [_short(c) for c in table.columns], rotation=35, ha="right", rotation_mode="anchor")
            ax.set_yticks(ticks, [_short(c) for c in table.index])
            ax.set(title=svg.title(title, columns), xlabel="predicted", ylabel="true", aspect="equal", ylim=(len(table), 0))
            if alike:
                svg.outer(ax)
            ax.tick_params(length=0, labelsize=max(6.0, font))
            ax.spines[:].set_visible(False)
        return finish({})


def losses(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """The pretraining loss over the steps, one panel per method: losses of different methods have different scales.

    Args:
        panels: label and table with columns step, loss.
        style: of every label.
    """
    columns = max(2, min(3, len(panels)))
    with svg.panels(len(panels), columns, 2.1) as (axes, finish):
        for (name, table), ax in zip(panels, axes, strict=True):
            rows = _thin(table.dropna(subset=["step", "loss"]).sort_values("step"))
            ax.plot(rows["step"], rows["loss"], color=style[name]["color"], linewidth=1.2)
            ax.set(title=svg.title(name, columns), xlabel="step", ylabel="loss")
            _count_steps(ax)
            svg.grid(ax)
        return finish({})


def _count_steps(ax: Any) -> None:
    """Whole numbers along the horizontal axis."""
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))


def features(lines: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """How the encoder's features spread out while it learned.

    Args:
        lines: label and table with columns step, feature_spread, effective_rank (empty where not measured).
        style: of every label.
    """
    words = {"feature_spread": "feature spread", "effective_rank": "effective rank"}
    with svg.panels(2, 2, 2.4) as (axes, finish):
        for (column, title), ax in zip(words.items(), axes, strict=True):
            for name, table in lines:
                rows = table.dropna(subset=["step", column]).sort_values("step")
                ax.plot(rows["step"], rows[column], label=name, **style[name] | {"linewidth": 1.2, "markersize": 3.5})
            ax.set(title=title, xlabel="step")
            ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
            _count_steps(ax)
            svg.grid(ax)
        return finish(style)


def hidden(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """The relative drop of the AUROC by share of hidden patches, one panel per way of hiding.

    Args:
        panels: title and table with columns label, severity, value, low, high.
        style: of every label.
    """
    with svg.panels(max(2, len(panels)), 2, 2.6, shared=True) as (axes, finish):
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for (title, table), ax in zip(panels, axes, strict=False):
            for name, rows in table.groupby("label", sort=False):
                rows = rows.sort_values("severity")
                ax.plot(rows["severity"], rows["value"], label=name, **style[str(name)])
                pale = {"color": style[str(name)]["color"], "alpha": 0.12, "linewidth": 0}
                ax.fill_between(rows["severity"], rows["low"], rows["high"], **pale)
            ax.set(title=title, xlabel="share of patches hidden", ylabel="relative drop of the AUROC")
            ax.axhline(0, color=FAINT, linewidth=0.7)
            svg.grid(ax)
        return finish(style)


def reliability(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """Stated probability against the share that was right, one panel per finding; as a URI.

    Args:
        panels: title and table with columns label, confidence, value, low, high, count.
        style: of every label.
    """
    columns = {1: 2, 2: 2, 4: 4, 7: 4, 8: 4}.get(len(panels), 3)
    with svg.panels(len(panels), columns, svg.WIDTH / columns + 0.35, shared=True) as (axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
            for name, of_name in table.groupby("label", sort=False):
                rows = of_name.sort_values("confidence")
                own = style[str(name)]
                ax.plot(
                    rows["confidence"],
                    rows["value"],
                    label=name,
                    clip_on=False,
                    alpha=0.5,
                    **own | {"linewidth": 0.8, "markersize": 0},
                )
                size = 12 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
                ax.scatter(
                    rows["confidence"], rows["value"], s=size, marker=own["marker"], color=own["color"], clip_on=False, zorder=3
                )
                bars = rows["low"].notna()
                ax.vlines(rows["confidence"][bars], rows["low"][bars], rows["high"][bars], color=own["color"], linewidth=0.9)
            ax.set(title=svg.title(title, columns), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            ax.set(xlabel="stated probability", ylabel="share that had it")
            ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
            ax.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
            svg.outer(ax)
            svg.grid(ax)
        return svg.uri(finish(style))


EVERYBODY, NOBODY = "Act on everybody", "Act on nobody"


def net_benefit(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """Decision curves, one panel per finding; as a URI.

    Args:
        panels: title and table with columns label, metric (net_benefit or net_benefit_all), threshold, value, low, high.
        style: of every label.
    """
    plain: dict[str, Style] = {
        EVERYBODY: {"color": INK, "linestyle": (0, (4, 2))},
        NOBODY: {"color": FAINT, "linestyle": (0, (1, 1.5))},
    }
    columns = min(3, max(2, len(panels)))
    with svg.panels(len(panels), columns, 2.5) as (axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            everyone = table[table["metric"] == "net_benefit_all"].drop_duplicates("threshold").sort_values("threshold")
            own = table[table["metric"] == "net_benefit"]
            ax.plot(everyone["threshold"], everyone["value"], label=EVERYBODY, **plain[EVERYBODY] | {"linewidth": 1.1})
            ax.axhline(0, label=NOBODY, **plain[NOBODY] | {"linewidth": 1.1})
            for i, (name, of_name) in enumerate(own.groupby("label", sort=False)):
                rows, drawn = of_name.sort_values("threshold"), style[str(name)]
                ax.plot(rows["threshold"], rows["value"], label=name, markevery=(i % 3, 3), **drawn | {"linewidth": 1.2})
                ax.fill_between(rows["threshold"], rows["low"], rows["high"], color=drawn["color"], alpha=0.12, linewidth=0)
            top = max(float(np.nanmax(table[["value", "high"]].to_numpy())), 0.02)
            ax.set(title=svg.title(title, columns), xlim=(0, 1), ylim=(-0.3 * top, 1.1 * top))
            ax.set(xlabel="probability from which one acts", ylabel="net benefit")
            svg.grid(ax)
        return svg.uri(finish({**style, **plain}))


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 16 else text[:15] + "…"


def _thin(table: pd.DataFrame, most: int = 400) -> pd.DataFrame:
    """At most so many points, each the mean of its neighbours: the curve's shape, not the page's weight."""
    if len(table) <= most:
        return table
    return table.groupby(np.arange(len(table)) * most // len(table))[["step", "loss"]].mean()


def auroc_by_labels(auroc: pd.DataFrame, style: dict[str, Style]) -> list[str]:
    """The study's curves as URIs: a panel for each target and use of the encoder, six per figure, controls in each."""
    panels, targets = [], list(dict.fromkeys(auroc["target"]))
    rows = auroc.dropna(subset=["fraction", "value"])
    for target in targets:
        mine = rows[rows["target"] == target]
        for use in uses_of(mine):
            shown = mine[(mine["evaluator"] == use) | ~mine["kind"].isin(ENCODERS)]
            if shown["fraction"].nunique() > 1:
                panels.append((f"{target}\n{title_of_use(use)}" if len(targets) > 1 else title_of_use(use), shown))
    return [svg.uri(curve(panels[i : i + 6], style, "AUROC")) for i in range(0, len(panels), 6)]


def roc_by_class(rows: pd.DataFrame, style: dict[str, Style], headline: float) -> list[dict[str, str]]:
    """A figure for each use of the encoder, at the page's share of labels: what it shows (``use``, ``at``) and its URI."""
    found = []
    here = rows[is_same(rows["fraction"], shown_share(rows, headline))]
    for use in uses_of(here):
        shown = here[(here["evaluator"] == use) | ~here["kind"].isin(ENCODERS)]
        keys = list(dict.fromkeys(zip(shown["target"], shown["class"], strict=True)))
        names = [str(c or t) for t, c in keys] if len(keys) > 1 else [": ".join(filter(None, keys[0]))]
        parts = [shown[(shown["target"] == t) & is_same(shown["class"], c)] for t, c in keys]
        panels = list(zip(names, parts, strict=True))
        for i in range(0, len(panels), 9):
            drawing = svg.uri(roc(panels[i : i + 9], style))
            bands = "drawn" if shown["low"].notna().any() else ""
            found.append({"use": title_of_use(use), "at": at(shown["fraction"].iloc[0]), "uri": drawing, "bands": bands})
    return found


def shown_share(rows: pd.DataFrame, headline: float) -> float:
    """The page's share of labels, or the greatest there is."""
    return headline if is_same(rows["fraction"], headline).any() else float(rows["fraction"].max())


def confusions(rows: pd.DataFrame, headline: float) -> list[dict[str, Any]]:
    """Matrices at the page's share of labels, or the greatest there is: a figure a use, as `roc_by_class` gives it.

    At the stored threshold first, and beside it the most probable class, where the rows have both (``rules``).
    """
    found = []
    for title, _, mine in group_by_use(rows):
        mine = mine.assign(order=mine["kind"] != "method").sort_values("order", kind="stable")
        fraction = shown_share(mine, headline)
        here = mine[is_same(mine["fraction"], fraction)]
        here = here.assign(rule=here["decision"].fillna("argmax"), later=here["decision"] != "threshold")
        here = here.sort_values("later", kind="stable")
        panels, rules = [], sorted(set(here["rule"]), key=lambda r: [*RULES, r].index(r))
        for (target, label, decided), one in here.groupby(["target", "label", "rule"], sort=False):
            names = list(dict.fromkeys([*one["class"], *one["predicted"]]))
            square = one.pivot_table(index="class", columns="predicted", values="value")
            square = square.reindex(index=names, columns=names).fillna(0)
            name = f"{target}\n{label}" if here["target"].nunique() > 1 else str(label)
            panels.append((f"{name}\n{RULES.get(str(decided), decided)}" if rules != ["argmax"] else name, square))
        found.append({"use": title, "at": at(fraction), "uri": svg.uri(confusion(panels)), "rules": rules})
    return found
