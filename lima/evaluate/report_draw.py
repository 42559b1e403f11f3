"""The figures of the report: shapes once, then as SVG (in the page, dark and light, and as a file) and as PNG.

A drawing is `(width, height, shapes)`, in pixels, y downwards; a shape is `(name, where, kind)`: `rect` x, y, width, height;
`line` points; `dot` x, y; `text` x, y, text, anchor. Its kind is a key of `STYLES`. All text is escaped where it is written.
"""

import html
import math
import unicodedata
import warnings

from lima import UserError

WIDTH = 340  # a phone's column; wider screens set figures side by side
LABEL = 50  # average characters that stand in it side by side
LIGHT = {"ground": "#fdfdfc", "ink": "#22262b", "soft": "#676d75", "line": "#dcdcd8", "win": "#2b6cb0", "tie": "#c8ccd1",
         "lose": "#c05a1c", "on-win": "#ffffff", "on-tie": "#22262b", "on-lose": "#ffffff"}  # fmt: skip
DARK = {"ground": "#15171a", "ink": "#dcdfe3", "soft": "#969da6", "line": "#363b42", "win": "#6ea8e6", "tie": "#4d545d",
        "lose": "#e8935a", "on-win": "#15171a", "on-tie": "#ffffff", "on-lose": "#15171a"}  # fmt: skip
SHARES = (
    "win",
    "tie",
    "lose",
)  # blue, grey, orange: apart for every kind of colour vision, and in grey print by their order
STYLES = {  # kind → fill and stroke (names of colours) and its width; of a text its size and weight, of a dot its radius
    **{kind: {"fill": kind} for kind in SHARES},
    **{f"paper {kind}": {"fill": "ground", "stroke": kind, "width": 1.5} for kind in SHARES},
    **{f"reach {kind}": {"stroke": kind, "width": 2} for kind in SHARES},
    **{f"on {kind}": {"fill": f"on-{kind}", "size": 12} for kind in SHARES},
    **{f"seed {kind}": {"fill": kind, "radius": 2.5} for kind in SHARES},
    "tick": {"stroke": "win", "width": 3},
    "guide": {"stroke": "tie", "width": 1.5},
    "grid": {"stroke": "line", "width": 1},
    "ours": {"fill": "win"},
    "paper": {"fill": "ground", "stroke": "ink", "width": 1.5},
    "reach": {"stroke": "win", "width": 2},
    "span": {"fill": "line"},
    "curve": {"stroke": "win", "width": 2},
    "head": {"fill": "soft", "size": 12, "weight": "bold"},
    "name": {"fill": "ink", "size": 12},
    "value": {"fill": "ink", "size": 12, "weight": "bold"},
    "soft": {"fill": "soft", "size": 12},
}


# ---- figures -----------------------------------------------------------------------------------------------------------


def bars(groups, names=SHARES):
    """Stacked bars of three shares: figures 1, 2, 3 and 7. groups: `[(head, rows)]`, a row `(label, note, shares, reach)`:
    `shares` three of 0…1, `reach` None for the paper's bars (outlined) or `{0: (low, high), 2: (low, high)}`, the intervals
    of the first share and the last, drawn as lines under the bar; then each seed's shares, if any, as points below."""
    shapes, y = _legend(names), 24
    for head, rows in groups:
        shapes.append(("text", (0, y + 14, cut(head, 0.88 * LABEL), "start"), "head"))
        y += 27
        for label, note, shares, reach, *seeds in rows:
            shapes += _bar(y, label, note, shares, reach)
            for first, _, last in seeds:
                shapes += [("dot", (WIDTH * first, y + 49), f"seed {SHARES[0]}")]
                shapes += [("dot", (WIDTH * (1 - last), y + 49), f"seed {SHARES[2]}")]
            y += 60 if seeds else 52
        if not rows:
            shapes.append(("text", (0, y + 8, "not run here", "start"), "soft"))
            y += 20
        y += 8
    return WIDTH, y, shapes


def _legend(names):
    shapes, x = [], 0
    for kind, name in zip(SHARES, names, strict=True):
        shapes += [("rect", (x, 2, 10, 10), kind), ("text", (x + 15, 11, name, "start"), "soft")]
        x += 35 + 7 * len(name)
    return shapes


def _bar(y, label, note, shares, reach):
    paper, left = reach is None, 0.0
    shapes = _titled(y, label, note)
    for kind, share in zip(SHARES, shares, strict=True):
        wide = WIDTH * share
        shapes.append(("rect", (left, y + 16, wide, 20), f"paper {kind}" if paper else kind))
        if wide > 26:
            shapes.append(
                ("text", (left + wide / 2, y + 30, f"{100 * share:.0f}", "middle"), "name" if paper else f"on {kind}")
            )
        left += wide
    for place, (low, high) in (reach or {}).items():
        low, high = (low, high) if place == 0 else (1 - high, 1 - low)
        at = y + (39.5 if place == 0 else 42.5)  # they may overlap
        shapes.append(("line", ((WIDTH * low, at), (WIDTH * high, at)), f"reach {SHARES[place]}"))
    return shapes


def dots(rows, marks):
    """Means with their intervals on one scale, from the first of `marks` to the last: figures 5 and 6. rows: `(label, note,
    mean, low, high)`; without an interval the dot is the paper's; without a mean the span from low to high is."""
    low, high = marks[0], marks[-1]

    def across(value):
        return 6 + (WIDTH - 12) * (min(max(value, low), high) - low) / (high - low)

    y, shapes = 4, []
    for label, note, mean, start, end in rows:
        shapes += _titled(y, label, note)
        shapes.append(("line", ((6, y + 24), (WIDTH - 6, y + 24)), "grid"))
        if mean is None:
            shapes.append(("rect", (across(start), y + 20, across(end) - across(start), 8), "paper"))
        else:
            if start is not None:
                shapes.append(("line", ((across(start), y + 24), (across(end), y + 24)), "reach"))
            shapes.append(("dot", (across(mean), y + 24), "paper" if start is None else "ours"))
        y += 40
    for mark in marks:
        anchor = {low: "start", high: "end"}.get(mark, "middle")
        x = {"start": 0, "end": WIDTH}.get(anchor, across(mark))
        shapes.append(("text", (x, y + 8, f"{mark:g}", anchor), "soft"))
    return WIDTH, y + 14, shapes


def curve(title, points):
    """One curve over epochs. points: `[(epoch, value, low or None, high or None)]`, the value above, its interval upright."""
    height, top, left, bottom = 150, 30, 40, 22
    values = [value for _, *found in points for value in found if value is not None]
    steps = ticks(min(values), max(values))
    first, last = min(point[0] for point in points), max(point[0] for point in points)

    def across(epoch):
        return left + 14 + (WIDTH - left - 28) * ((epoch - first) / (last - first) if last > first else 0.5)

    def down(value):
        return top + (height - top - bottom) * (steps[-1] - value) / (steps[-1] - steps[0])

    shapes = [("text", (0, 12, title, "start"), "head")]
    for step in steps:
        shapes.append(("line", ((left, down(step)), (WIDTH, down(step))), "grid"))
        shapes.append(("text", (left - 6, down(step) + 4, f"{step:g}", "end"), "soft"))
    shapes.append(("line", tuple((across(epoch), down(value)) for epoch, value, *_ in points), "curve"))
    every = math.ceil(len(points) / 10)
    for number, (epoch, value, low, high) in enumerate(points):
        if low is not None:
            shapes.append(("line", ((across(epoch), down(low)), (across(epoch), down(high))), "reach"))
        shapes.append(("dot", (across(epoch), down(value)), "ours"))
        if number % every == 0:
            shapes.append(("text", (across(epoch), height - 6, f"{epoch:g}", "middle"), "soft"))
    return WIDTH, height, shapes


def ticks(low, high):
    """Three to six round numbers that reach from `low` or below to `high` or above."""
    span = (high - low) or abs(high) or 1
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _titled(y, label, note):
    """What stands above a bar or point: its name on the left, a note on the right."""
    note = cut(note, LABEL * 0.6)
    left = cut(label, LABEL - size(note) - 1)
    return [("text", (0, y + 10, left, "start"), "name"), ("text", (WIDTH, y + 10, note, "end"), "soft")]


def cut(text, most):
    """A text that fits: its middle gives way, since names differ at their ends, and a note ends on its count."""
    keep = len(text)
    short = text
    while size(short) > most and keep > 2:
        keep -= 1
        short = f"{text[: keep - keep // 2]}…{text[-(keep // 2) :]}"
    return short


def size(text):
    """How wide a text is, in average characters; rather too much than too little."""

    def one(char):
        if unicodedata.east_asian_width(char) in "WF" or char in "WM@%":
            return 2
        return 1.5 if char.isupper() or char in "mw" else 1

    return sum(map(one, text))


# ---- as SVG ------------------------------------------------------------------------------------------------------------


def palette(colours):
    """Colours as CSS variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def css():
    """The rules of every kind of shape, for a page or a file whose palette is set."""
    rules = ["svg text { stroke: none; font-variant-numeric: tabular-nums; }"]
    for kind, style in STYLES.items():
        said = {"fill": _colour(style.get("fill")), "stroke": _colour(style.get("stroke"))}
        said |= {"stroke-width": style.get("width"), "font-weight": style.get("weight")}
        said["font-size"] = f"{style['size']}px" if "size" in style else None
        body = " ".join(f"{key}: {value};" for key, value in said.items() if value)
        rules.append(f"svg .{kind.replace(' ', '.')} {{ {body} }}")
    return "\n".join(rules)


def _colour(name):
    return f"var(--{name})" if name else "none"


def svg(drawing, said):
    """For a page that has `css()` and the palettes; `said` is read to those who do not see it."""
    return _svg(drawing, said, "")


def svg_file(drawing, said):
    """An SVG that stands alone, light or dark as its reader's screen is."""
    style = (
        f":root {{ {palette(LIGHT)} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {palette(DARK)} }} }}\n{css()}"
    )
    ground = '<rect x="-12" y="-12" width="100%" height="100%" style="fill: var(--ground)"/>'
    return _svg(drawing, said, f"<style>\n{style}\n</style>{ground}", 12) + "\n"


def _svg(drawing, said, inside, margin=0):
    width, height, shapes = drawing
    box = f"{-margin} {-margin} {width + 2 * margin} {height + 2 * margin:.0f}"
    size = f' width="{width + 2 * margin}" height="{height + 2 * margin:.0f}"' if margin else ""
    name = f'xmlns="http://www.w3.org/2000/svg" viewBox="{box}"{size} font-family="system-ui, sans-serif"'
    return f'<svg {name} role="img" aria-label="{html.escape(said)}">{inside}{"".join(map(_element, shapes))}</svg>'


def _element(shape):
    name, where, kind = shape
    if name == "rect":
        x, y, width, height = where
        return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"/>'
    if name == "line":
        return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in where)}"/>'
    if name == "dot":
        return f'<circle class="{kind}" cx="{where[0]:.1f}" cy="{where[1]:.1f}" r="{STYLES[kind].get("radius", 4)}"/>'
    x, y, text, anchor = where
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


# ---- as PNG ------------------------------------------------------------------------------------------------------------


def png(drawing, path):
    """Writes the drawing, light, at three dots a pixel. Raises `UserError` where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.patches import Circle, Rectangle
    except ImportError:
        raise UserError("PNG figures need matplotlib: pip install -r requirements-bench.txt") from None
    width, height, shapes = drawing
    figure = Figure(figsize=((width + 24) / 72, (height + 24) / 72), dpi=216, facecolor=LIGHT["ground"])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-12, width + 12), ylim=(height + 12, -12))
    axes.axis("off")
    for name, where, kind in shapes:
        style = STYLES[kind]
        fill, stroke = (LIGHT.get(style.get(key), "none") for key in ("fill", "stroke"))
        drawn = {"facecolor": fill, "edgecolor": stroke, "linewidth": style.get("width", 0)}
        if name == "rect":
            axes.add_patch(Rectangle(where[:2], *where[2:], **drawn))
        elif name == "dot":
            axes.add_patch(Circle(where, style.get("radius", 4), zorder=3, **drawn))
        elif name == "line":
            axes.add_line(Line2D(*zip(*where, strict=True), color=stroke, linewidth=style["width"]))
        else:
            place = {"start": "left", "middle": "center", "end": "right"}[where[3]]
            words = {"fontsize": 0.86 * style["size"], "weight": style.get("weight", "normal"), "parse_math": False}
            axes.text(*where[:3], ha=place, va="baseline", color=fill, zorder=4, **words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that its font lacks is drawn as a box
        figure.savefig(path)
