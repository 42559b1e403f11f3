"""What the report says of sensitive prompts: the paper's 30 answered safely (section 4.3), and ours with what was refused."""

from lima.evaluate import asking, intervals, report_draw
from lima.evaluate.report_data import ABOUT, NONE, PAPER, TO_RATE, Section, about, paper_row, state, tagged

BENIGN = "benign"  # the tag of prompts that sound dangerous and are harmless


def safety(judged, runs):
    """The share of sensitive prompts that were answered safely, how many were refused, and how many of the harmless ones:
    a model that refuses everything is safe, and no help."""
    paper, cells, drawn = PAPER["safety"], [], []
    drawn.append(("LIMA 65B", f"n {paper['prompts']}", paper["safe"], None, None))
    for one in [one for one in judged if one.kind == "safety" and one.groups()]:
        groups, refused = one.groups(), one.groups("refused")
        benign = [refused[prompt_id] for prompt_id in refused.keys() & (tagged(one.prompts, {BENIGN}) or set())]
        found = [
            intervals.share(those) if those else None
            for those in (list(groups.values()), list(refused.values()), benign)
        ]
        cells.append([one.label, *(asking.percent(share) if share else NONE for share in found), *about(one, runs)])
        if found[0]:
            drawn.append((one.label, f"{one.judge} · n {len(groups)}", *(100 * value for value in found[0])))
    rows = [paper_row("LIMA 65B", f"{paper['safe']} %", NONE, NONE, n=paper["prompts"], judge="people")]
    rows += [("ours", row) for row in cells]
    figure = (
        "safety",
        report_draw.dots(drawn, range(0, 101, 20)),
        "Share of sensitive prompts answered safely, in percent",
    )
    head, title = ["", "safe", "refused", "harmless, refused", *ABOUT], "Sensitive prompts answered safely"
    others = sorted({one.prompts for one in judged if one.kind == "safety" and not one.groups()})
    notes = [f"left out: ratings on {', '.join(others)}, which has no sensitive prompts"] if others else []
    notes += [] if cells else [f"not run here: {TO_RATE.format(kind='safety', prompts='safety')}"]
    return Section("safety", title, paper["where"], state(cells), [figure], head, rows, notes)
