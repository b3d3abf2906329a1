"""Pictures of benchmarks' results, made by the command that measured; without matplotlib there are none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.harness.tables import describe, median_spread, significant

MET, MISSED, INK = "#2a7f62", "#c0562f", "#333333"
WIDTH_IN, ROW_IN, EDGES_IN = 9.0, 0.62, 1.5


def serving(result: Mapping[str, Any], path: Path) -> str:
    """A bar for each case, its ratio to the floor, with its rounds as dots and its goal as a mark.

    Gives a line that says where the picture is.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return "no picture: matplotlib is not installed"
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    lines = list(result["lines"])[::-1]  # the first on top
    figure, axes = plt.subplots(figsize=(WIDTH_IN, EDGES_IN + ROW_IN * len(lines)), layout="constrained")
    for row, line in enumerate(lines):
        axes.barh(row, line["ratio"], height=0.5, color=MET if line["met"] else MISSED, alpha=0.85)
        axes.plot(line["ratios"], [row] * len(line["ratios"]), "o", color=INK, markersize=3.5, alpha=0.7)
        axes.plot([line["goal"]] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2)
        floor, ours = (significant(median_spread(line[name])[0]) for name in ("floor", "ours"))
        right = max(line["ratio"], line["goal"], *line["ratios"])
        axes.annotate(
            f"{line['ratio']:.2f}x   {ours} {line['unit']}, floor {floor}",
            (right, row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=INK,
        )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    widest = max(max(line["goal"], line["ratio"], *line["ratios"]) for line in lines)
    axes.set_xlim(0, widest * 1.55)  # the rest is for the words
    axes.set_yticks(range(len(lines)), [line["title"].replace(", ", ",\n", 1) for line in lines], fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("times the floor (dotted), median of the rounds; dots: rounds; upright mark: goal", fontsize=9)
    axes.set_title(
        f"Serving against a bare relay: CPU time, and time to first text ({result['protocol']})", fontsize=11
    )
    machine = {name: result["machine"][name] for name in ("processor", "Python", "aiohttp", "uvloop")}
    figure.supxlabel(describe(machine), fontsize=7, color=INK)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return f"picture: {path.name}, beside its figures in {path.parent.name}/"
