"""The figures of arms: means with their interval and seeds on one scale (figures 5 and 6), and panels of what seeds came to.
Drawings as in report_draw.py."""

from lima.evaluate.report_draw import WIDTH, cut, size, ticks

EDGE = 6  # of a scale, so that a dot at its end is whole
ROOM = 50  # average characters of 12 pixels side by side
BOLD = 44  # of bold ones
NAMES, VALUES = 112, 48  # a panel's columns left and right of its scale


def means(groups, marks):
    """Rows on one scale, from the first of `marks` to the last. groups: `[(head, rows)]`, a row `(label, value, below, right,
    found)`: four texts, above and below the scale; `found`: any of mean, reach (low, high), seeds (list), paper (a number)
    and span (low, high: the paper's, which gives no number)."""
    shapes, y = _legend(groups), 22
    for head, rows in groups:
        shapes.append(("text", (0, y + 14, cut(head, BOLD), "start"), "head"))
        y += 28
        for label, value, below, right, found in rows:
            shapes += _ends(y + 10, label, value, "name", "value") + _on_scale(y, marks, found)
            shapes += _ends(y + 48, below, right, "soft", "soft") if below or right else []
            y += 64 if below or right else 42
        y += 6
    for mark in marks:
        anchor = {marks[0]: "start", marks[-1]: "end"}.get(mark, "middle")
        x = {"start": 0, "end": WIDTH}.get(anchor, _across(mark, marks[0], marks[-1]))
        shapes.append(("text", (x, y + 4, f"{mark:g}", anchor), "soft"))
    return WIDTH, y + 10, shapes


def _legend(groups):
    """What the marks mean, of those that are there."""
    found = [found for _, rows in groups for *_, found in rows]
    shapes, x = [], 0
    marks = (("ours", "mean, 95 %", "mean"), ("seed win", "seeds", "seeds"), ("paper", "the paper", "paper"))
    for kind, name, key in marks:
        if any(one.get(key) for one in found):
            shapes += [("dot", (x + 5, 7), kind), ("text", (x + 14, 11, name, "start"), "soft")]
            x += 32 + 6.4 * len(name)
    if any(one.get("span") for one in found):
        shapes += [("rect", (x, 3, 10, 8), "paper"), ("text", (x + 15, 11, "the paper", "start"), "soft")]
    return shapes


def _ends(y, left, right, first, second):
    """A text on the left and one on the right, which fit beside each other."""
    right = cut(right, ROOM * 0.6)
    left = cut(left, ROOM - size(right) - 1)
    return [("text", (0, y, left, "start"), first), ("text", (WIDTH, y, right, "end"), second)]


def _on_scale(y, marks, found):
    low, high = marks[0], marks[-1]
    shapes = [("line", ((EDGE, y + 24), (WIDTH - EDGE, y + 24)), "grid")]
    if span := found.get("span"):
        start, end = (_across(value, low, high) for value in span)
        shapes.append(("rect", (start, y + 20, end - start, 8), "paper"))
    if reach := found.get("reach"):
        shapes.append(("line", tuple((_across(value, low, high), y + 24) for value in reach), "reach"))
    if found.get("paper") is not None:
        shapes.append(("dot", (_across(found["paper"], low, high), y + 24), "paper"))
    if found.get("mean") is not None:
        shapes.append(("dot", (_across(found["mean"], low, high), y + 24), "ours"))
    return shapes + [("dot", (_across(value, low, high), y + 33), "seed win") for value in found.get("seeds", ())]


def _across(value, low, high, left=EDGE, right=WIDTH - EDGE):
    return left + (right - left) * (min(max(value, low), high) - low) / (high - low)


def panel(title, groups, form):
    """One measure of several arms. groups: `[(head, rows)]`, a row `(name, mean, seeds)`, the first of a group being what the
    others are held against: a line leads down from its mean. form: how a value is written, such as "{:.0f} %"."""
    values = [value for _, rows in groups for _, mean, seeds in rows for value in (mean, *seeds)]
    steps = ticks(min(values), max(values))
    left, right = NAMES + EDGE, WIDTH - VALUES - EDGE

    def across(value):
        return _across(value, steps[0], steps[-1], left, right)

    shapes, y = [("text", (0, 12, title, "start"), "head")], 22
    for head, rows in groups:
        if head:
            shapes.append(("text", (0, y + 14, cut(head, ROOM), "start"), "soft"))
            y += 20
        first = across(rows[0][1])
        shapes.append(("line", ((first, y + 2), (first, y + 26 * len(rows) - 2)), "guide"))
        for name, mean, seeds in rows:
            shapes.append(("text", (0, y + 17, cut(name, NAMES / 7), "start"), "name"))
            shapes.append(("line", ((left, y + 13), (right, y + 13)), "grid"))
            shapes += [("dot", (across(value), y + 13), "seed win") for value in seeds]
            shapes.append(("line", ((across(mean), y + 6), (across(mean), y + 20)), "tick"))
            shapes.append(("text", (WIDTH, y + 17, form.format(mean), "end"), "value"))
            y += 26
    for step in (steps[0], steps[-1]):
        shapes.append(("text", (across(step), y + 14, form.format(step), "middle"), "soft"))
    return WIDTH, y + 22, shapes
