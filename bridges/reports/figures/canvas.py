"""What all figures share: a matplotlib figure without a window, colours, and SVG to put inside a page.

Text stays text (so that it can be read aloud, searched and scaled) in the page's font; ids carry the figure's name,
so that several figures can live in one page; the same data give the same bytes.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foundation.text import visible

FORWARD, BACKWARD = "#0072b2", "#c2540a"
"""Direction a → b, or larger on a prompts; direction b → a, or larger on b prompts. Safe for colour-blind eyes."""
INK, FAINT, RULE = "#222222", "#6b6b6b", "#d8d8d8"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sparsebridge",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw under the reports' style and nobody else's."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def make_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that arranges its axes by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def quiet_grid(axes: Axes) -> None:
    """Hairlines at the ticks of the y axis."""
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def to_bytes(figure: Figure, kind: Literal["svg", "png"], dpi: int = 144) -> bytes:
    """A file of the figure on white, without the date and the name of what drew it."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=dpi, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def to_svg(figure: Figure, name: str, label: str) -> str:
    """An `<svg role="img">` element.

    Args:
        name: unique in the page; letters, digits and hyphens.
        label: what the figure shows, for those who do not see it.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=\bid=")([^"]+)', rf"{name}-\1", text)
    text = re.sub(r'(?<=xlink:href="#)([^"]+)', rf"{name}-\1", text)
    text = re.sub(r"(?<=url\(#)([^)]+)", rf"{name}-\1", text)
    opening = text[: text.index(">") + 1]
    width, height = (float(re.search(rf'{side}="([\d.]+)pt"', opening)[1]) for side in ("width", "height"))  # type: ignore[index]
    fresh = re.sub(r'\s(width|height)="[\d.]+pt"', "", opening)[: -len(">")]
    # 1 pt of the drawing is 4/3 px of the page
    size = f'style="width:{width * 4 / 3:.0f}px;aspect-ratio:{width:.1f}/{height:.1f}"'
    title = escape(visible(label), quote=True)
    return f'{fresh} role="img" aria-label="{title}" {size}>\n<title>{title}</title>{text[len(opening) :]}'.strip()
