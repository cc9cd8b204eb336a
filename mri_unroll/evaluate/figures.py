"""The plots of an evaluation: scores as boxes, and against acceleration, as drawings that a page takes in as they are.

They are drawn without a display, in the colours of the page (text and axes follow its light or dark), and a method has
a colour and a sign of its own that the page names once for all plots. Nothing from a file's name gets into a drawing.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from mri_unroll.evaluate.conventions import MEASURES
from mri_unroll.evaluate.record import VolumeScore
from mri_unroll.evaluate.statistics import method_order, settings_of, summary_of, values_by_volume

LABELS = {"nmse": "NMSE", "psnr": "PSNR [dB]", "ssim": "SSIM"}
LOGARITHMIC = frozenset({"nmse"})
# Told apart with any colour vision and on light and dark paper; after Okabe and Ito, with yellow and black left out.
COLOURS = ("#3a7fc1", "#d55e00", "#009e73", "#c48a00", "#b566a7", "#2fa3c7", "#8a8a8a", "#a0683a")
SIGNS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))
MAX_NAMED = 8  # accelerations named along an axis
FEW = 12  # volumes up to which each is drawn as a point

_Values = NDArray[np.float64]
_INK, _RULE = "#010203", "#030201"  # stand for the page's own colours until the drawing is put into it
_SIZE = (4.4, 3.0)  # inches
_PLACE = (0.155, 0.15, 0.835, 0.825)  # of the axes within that: left, bottom, width, height
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mri_unroll",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _RULE,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and what it shows, for those who do not see it."""

    svg: str
    alt: str


@dataclass(frozen=True, slots=True)
class Sign:
    """How a method looks in every plot."""

    method: str
    colour: str
    marker: str  # as matplotlib calls it
    glyph: str  # the same as a character


def signs(scores: Sequence[VolumeScore], methods: Sequence[str] = ()) -> list[Sign]:
    """Colour and marker of every method that has scores, in the order of `method_order`."""
    return [
        Sign(name, COLOURS[i % len(COLOURS)], *SIGNS[(i + i // len(COLOURS)) % len(SIGNS)])
        for i, name in enumerate(method_order(scores, methods))
    ]


def boxes(scores: Sequence[VolumeScore], mask: str, methods: Sequence[str] = ()) -> list[Plot]:
    """Scores over volumes as boxes, for each measure one plot: accelerations side by side, in each all methods.

    A box reaches from quartile to quartile, its line is the median, the sign the mean; whiskers reach to the furthest
    value within 1.5 times the box's height, and what lies beyond are points. Up to `FEW` volumes all are points.
    """
    accelerations = _accelerations(scores, mask)
    shown = signs(scores, methods)

    def draw(axes: Axes, measure: str) -> None:
        width = 0.8 / len(shown)
        for index, sign in enumerate(shown):
            found = [_finite(scores, measure, mask, acceleration, sign.method) for acceleration in accelerations]
            held = [(place, values) for place, values in enumerate(found) if len(values)]
            if held:
                aside = (index - (len(shown) - 1) / 2) * width
                _boxes(axes, [place + aside for place, _ in held], [values for _, values in held], 0.8 * width, sign)
        _label(axes, range(len(accelerations)), accelerations)
        axes.set_xlim(-0.55, len(accelerations) - 0.45)

    where = f"at {' and '.join(f'{R:g}-fold' for R in accelerations)} {mask} undersampling"
    return [_plot(measure, draw, f"Box plots of {LABELS[measure]} of each method {where}") for measure in MEASURES]


def curves(scores: Sequence[VolumeScore], mask: str, methods: Sequence[str] = ()) -> list[Plot]:
    """Mean scores against nominal acceleration, bars of one standard deviation; none for a single acceleration."""
    accelerations = _accelerations(scores, mask)
    shown = signs(scores, methods)
    if len(accelerations) < 2:
        return []
    step = min(np.diff(accelerations)) * 0.06

    def draw(axes: Axes, measure: str) -> None:
        for index, sign in enumerate(shown):
            found = [(R, summary_of(_finite(scores, measure, mask, R, sign.method))) for R in accelerations]
            held = [(R, summary) for R, summary in found if summary.n]
            if held:
                at = [R + (index - (len(shown) - 1) / 2) * step for R, _ in held]
                spread = [0.0 if math.isnan(summary.sd) else summary.sd for _, summary in held]
                means = [summary.mean for _, summary in held]
                below = np.minimum(spread, 0.9 * np.array(means)) if measure in LOGARITHMIC else spread
                axes.errorbar(
                    at,
                    means,
                    yerr=np.array([below, spread]),
                    color=sign.colour,
                    marker=sign.marker,
                    markersize=5,
                    linewidth=1.4,
                    elinewidth=0.9,
                )
        _label(axes, accelerations, accelerations)
        axes.set_xlabel("undersampling")

    alt = f"of each method against acceleration, {mask} undersampling"
    return [_plot(measure, draw, f"Mean {LABELS[measure]} {alt}") for measure in MEASURES]


def _label(axes: Axes, places: Sequence[float], accelerations: Sequence[float]) -> None:
    """Name accelerations along the axis; of many, as the files' own masks may have, some."""
    every = -(-len(accelerations) // MAX_NAMED)
    axes.set_xticks(places[::every], [f"{R:g}×" for R in accelerations[::every]])


def _accelerations(scores: Sequence[VolumeScore], mask: str) -> list[float]:
    return [acceleration for kind, acceleration in settings_of(scores) if kind == mask]


def _finite(scores: Sequence[VolumeScore], measure: str, mask: str, acceleration: float, method: str) -> _Values:
    values = np.array([*values_by_volume(scores, measure, (mask, acceleration), method).values()], np.float64)
    return values[np.isfinite(values)]


def _boxes(axes: Axes, places: Sequence[float], values: Sequence[_Values], width: float, sign: Sign) -> None:
    few = max(map(len, values)) <= FEW
    edge = {"color": sign.colour, "linewidth": 1.1}
    axes.boxplot(
        values,
        positions=places,
        widths=width,
        patch_artist=True,
        showfliers=not few,
        manage_ticks=False,
        boxprops={"facecolor": (*mpl.colors.to_rgb(sign.colour), 0.25), "edgecolor": sign.colour, "linewidth": 1.1},
        whiskerprops=edge,
        capprops=edge,
        medianprops={"color": _INK, "linewidth": 1.3},
        flierprops={"marker": ".", "markersize": 5, "markeredgewidth": 0, "markerfacecolor": sign.colour},
    )
    for place, found in zip(places, values, strict=True) if few else ():
        aside = np.linspace(-0.28, 0.28, len(found)) if len(found) > 1 else np.zeros(1)
        axes.plot(place + width * aside, found, ".", color=sign.colour, markersize=4.5, markeredgewidth=0)
    means = [found.mean() for found in values]
    axes.plot(places, means, sign.marker, color=sign.colour, markersize=3.8, linestyle="none")


def _plot(measure: str, draw: Callable[[Axes, str], None], alt: str) -> Plot:
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": "agg"}):
        figure = Figure(figsize=_SIZE)
        FigureCanvasSVG(figure)
        axes = figure.add_axes(_PLACE)
        axes.grid(axis="y", linewidth=0.6, alpha=0.5)
        axes.set_axisbelow(True)
        draw(axes, measure)
        axes.set_ylabel(LABELS[measure])
        if measure in LOGARITHMIC and axes.dataLim.y0 > 0:
            _logarithmic(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(_inlined(buffer.getvalue()), alt)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _inlined(svg: str) -> str:
    """A drawing as an element of a page: in the page's colours, without prologue and names of its parts."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)  # a style here would be the whole page's
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(_INK, "currentColor").replace(_RULE, "var(--soft)").strip()
