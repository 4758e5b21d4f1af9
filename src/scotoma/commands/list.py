"""``scotoma list``: methods, encoders, datasets, evaluators, corruptions and attributions, a line each."""

from __future__ import annotations

from scotoma import plugins
from scotoma.errors import UsageError


def show(arguments: list[str], summary: str) -> int:
    """Print what ``scotoma list`` is asked for; the exit code.

    Args:
        arguments: what stands behind the verb.
        summary: of the verb, in a line.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = [*plugins.LISTED, "encoders"]
    if "--help" in arguments or "-h" in arguments:
        print(f"usage: scotoma list {'|'.join(sorted(kinds))} [--markdown]\n\n{summary}; --markdown: methods, datasets")
        return 0
    if arguments[:1] == ["datasets"] and arguments[1:] in ([], ["--markdown"]):
        from scotoma.data import catalog

        print(catalog.markdown() if arguments[1:] else catalog.listing(), end="" if arguments[1:] else "\n")
        return 0
    if arguments[:1] == ["methods"] and arguments[1:] in ([], ["--markdown"]):
        print(methods(markdown=bool(arguments[1:])))
        return 0
    if len(arguments) != 1 or arguments[0] not in kinds:
        raise UsageError(f"scotoma list {'|'.join(sorted(kinds))}")
    if arguments[0] == "encoders":
        print("any network of timm (timm.list_models()), for example:")
        found = {
            "resnet18, resnet50": "convolutional; the default of contrastive methods",
            "efficientnet_b0, convnext_tiny": "convolutional",
            "vit_tiny_patch8, vit_small_patch16": "vision transformers vit_{tiny,small,base,large}_patchN, patches of N pixels",
            "vit_tiny_patch8_avg": "the same, read out as the mean over patches instead of the class token",
        }
    else:
        found = plugins.summaries(arguments[0])
    width = max(map(len, found), default=0)
    for name, text in found.items():
        print(f"{name:<{width}}  {text}")
    return 0


def methods(markdown: bool) -> str:
    """Methods with what they need, what a step costs and their paper."""
    costs, texts = plugins.costs(), plugins.summaries("methods")
    rows = [("method", "needs", "cost", "what it does")]
    for name, text in texts.items():
        cost = f"{costs[name]['cost']:.1f}" if name in costs else ""
        rows.append((name, ", ".join(plugins.needs(name)), cost, text.partition(": ")[2] or text))
    if markdown:
        head, *body = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([head, "|---|---|---|---|", *body])
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    networks = ", ".join(dict.fromkeys(str(found["encoder"]) for found in costs.values()))
    note = f"cost: time of a step per image relative to supervised, same network ({networks}), 96 pixels, measured on a CPU"
    return "\n".join([*lines, "", note])
