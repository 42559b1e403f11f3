"""The pictures of the data report, as SVG text: a ledger as a flow, lengths as a histogram. No text comes in unescaped."""

import html
import math

WIDTH, TRUNK, BEND = 340, 96, 124  # of a picture, of its flow where it begins, and where its branches end
ROW, THIN, CONE = 24, 1.2, 22  # least height of a row, and width of a line; height of a change of scale
LONGEST = 20  # characters of a label
TICKS = (3, 10, 30, 100, 300, 1000, 3000)  # tokens
LOW, HIGH = 2, 5000


def flow(steps):
    """A vertical flow: `steps` is `[(kind, label, count, note)]`, kind "in" (what came), "drop" (a branch that leaves),
    "aside" (one that is kept aside), "mark" (what is left there, and the measure from there on), "end" (what is left at last)
    or "part" (of that)."""
    total = max((count for kind, _, count, _ in steps if kind == "in"), default=0) or 1
    left, y, labels, branches, trunk = total, 0.0, [], [], []  # trunk: (top, height, width) of each piece
    for kind, label, count, note in steps:
        height = ROW
        if kind in ("drop", "aside"):
            thick = max(THIN, TRUNK * count / total)
            height = max(ROW, thick + 12)
            branches.append(_branch(kind, y, max(0, _width(left, total) - thick), thick))
            labels.append(_label(kind, y + 6 + thick / 2, label, count, note))
            left -= count
        else:
            if kind == "mark" and left:  # too little of what came to be seen: drawn anew, as wide as at first
                y += CONE if left < total else 0
                total = left
            height += {"in": 4, "mark": 4, "end": 8, "part": -6}[kind]
            labels.append(_label(kind, y + height / 2, label, count, note))
        trunk.append((y, height, _width(left, total)))
        y += height
    outline = "".join(f"L{wide:.1f} {top:.1f}V{top + height:.1f}" for top, height, wide in trunk)
    said = html.escape(", ".join(f"{label} {count:,}" for _, label, count, _ in steps))
    body = f'<path class="trunk" d="M0 0{outline}H0Z"/>{"".join(branches)}{"".join(labels)}'
    return f'<svg viewBox="0 0 {WIDTH} {y:.0f}" role="img" aria-label="{said}">{body}</svg>'


def _width(count, total):
    return max(THIN, TRUNK * count / total) if count else 0


def _branch(kind, y, start, thick):
    """What leaves the trunk's right edge, `thick` wide from `start` on, and bends to the right."""
    top, end = y + 6, start + thick
    low = top + thick
    outer = f"M{start:.1f} {y:.1f}C{start:.1f} {low:.1f} {start:.1f} {low:.1f} {BEND} {low:.1f}"
    inner = f"V{top:.1f}C{end:.1f} {top:.1f} {end:.1f} {top:.1f} {end:.1f} {y:.1f}Z"
    return f'<path class="{kind}" d="{outer}{inner}"/>'


def _label(kind, y, label, count, note):
    at = BEND + 8 + (10 if kind == "part" else 0)
    shown = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
    texts = [(at, "start", "", shown), (WIDTH - 44, "end", "", f"{count:,}"), (WIDTH, "end", " soft", note)]
    return "".join(
        f'<text class="{kind}{more}" x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        for x, anchor, more, text in texts
        if text
    )


def histogram(values, paper, title):
    """Tokens on a logarithmic axis, three bars an octave, with the mean of `values` and, dashed, the paper's (or None)."""
    height, bottom = 96, 18
    bins, step = {}, math.log(2) / 3
    for value in values:
        place = int(math.log(min(max(value, LOW), 0.99 * HIGH)) / step)
        bins[place] = bins.get(place, 0) + 1
    most = max(bins.values(), default=1)
    parts = [f'<line class="grid" x1="0" x2="{WIDTH}" y1="{height - bottom}" y2="{height - bottom}"/>']
    for tick in TICKS:
        parts.append(f'<text x="{_x(tick):.1f}" y="{height - 4}" text-anchor="middle">{tick:,}</text>')
    for place, count in sorted(bins.items()):
        left, right = _x(math.exp(place * step)), _x(math.exp((place + 1) * step))
        tall = max(1.5, (height - bottom - 22) * count / most)
        shape = f'y="{height - bottom - tall:.1f}" width="{right - left - 1:.1f}" height="{tall:.1f}"'
        parts.append(f'<rect class="bar" x="{left:.1f}" {shape}/>')
    mean = sum(values) / len(values) if values else None
    for kind, value in (("paper", paper), ("mean", mean)):
        if value:
            at = _x(value)
            parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="14" y2="{height - bottom}"/>')
    said = f"{title}: mean {mean:,.0f} tokens" if values else f"{title}: none"
    said += f", paper {paper:,}" if paper else ""
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(said)}">{"".join(parts)}</svg>'


def _x(tokens):
    share = (math.log(min(max(tokens, LOW), HIGH)) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
    return share * WIDTH
