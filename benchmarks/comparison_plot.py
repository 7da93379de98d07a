"""The picture of `benchmarks.suite`: bytes a step and steps a second of every way, on logarithmic scales."""

from __future__ import annotations

from pathlib import Path

from .comparing import WARM, Comparison
from .peers import OURS

__all__ = ["draw"]

JOB = "fourth"
OWN, OTHER = "#c2410c", "#64748b"


def draw(measured: Comparison, path: Path) -> None:
    """Write the picture to ``path``, a PNG. Needs matplotlib."""
    from matplotlib.figure import Figure

    steps = measured.questions.steps
    speed = {peer.name: steps / measured.spread(peer.name, JOB, WARM).median for peer in measured.peers}
    size = {peer.name: measured.sizes[peer.name] / steps for peer in measured.peers}
    ways = sorted(speed, key=lambda way: speed[way])
    colors = [OWN if way == OURS.name else OTHER for way in ways]

    figure = Figure(figsize=(9, 0.32 * len(ways) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, title in (
        (left, size, "bytes a step (less is better)"),
        (right, speed, "every fourth step to arrays,\nsteps a second on one core (more is better)"),
    ):
        bars = axes.barh(ways, [values[way] for way in ways], color=colors)
        axes.bar_label(bars, [f"{values[way]:,.0f}" for way in ways], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * 4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
