"""The training curve of a run as an SVG picture, for its card: loss and held-out loss over epochs."""

import html
import math

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 320, 56, 40, 16, 44  # pixels
COLOURS = {"loss": "#5b8fc7", "held-out loss": "#b0483a"}


def svg(rows, title, kept=()):
    """A picture of `metrics.jsonl`'s rows, or None where no loss was logged. `kept`: epochs to mark, those that are pushed."""
    series = {"loss": _points(rows, "loss"), "held-out loss": _points(rows, "eval_loss")}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    right = max(x for points in series.values() for x, _ in points) or 1
    values = [y for points in series.values() for _, y in points]
    steps = _ticks(min(values), max(values))
    low, high = steps[0], steps[-1]

    def across(x):
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def down(y):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = [f'<text x="{LEFT}" y="22" font-size="14">{html.escape(title)}</text>']
    for y in steps:
        parts.append(f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.6g}</text>')
    for x in [x for x in _ticks(0, right) if x <= right]:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.6g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    for x in kept:
        parts.append(f'<path d="M{across(x):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#bbb" stroke-dasharray="3 4"/>')
    for number, (name, points) in enumerate(series.items()):
        line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        colour, thick = COLOURS[name], 2.4 if name != "loss" else 1.2
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.5" fill="{colour}"/>'
            for x, y in points * (name != "loss")
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{22 + 14 * number}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _points(rows, key):
    found = [(row.get("epoch", row["step"]), row[key]) for row in rows if key in row]
    return [(x, y) for x, y in found if isinstance(y, (int, float)) and math.isfinite(y)]


def _ticks(low, high):
    """Four to ten round numbers that reach from `low` or below to `high` or above."""
    span = (high - low) or abs(high) or 1
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
