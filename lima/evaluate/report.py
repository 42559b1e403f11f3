"""The paper's figures and tables with ours beside them, from what stands in runs/
and judgments/. Asks nobody, judges nothing.

    python -m lima.evaluate.report
        every run in runs/, every verdict in judgments/
    python -m lima.evaluate.report --runs runs/7b runs/mine --authors anna

Writes report/index.html (one file, opens offline), report.md, figures.json
(which `make push` puts into the card), and each figure as .svg and, where
matplotlib is installed, as .png. What was not run is said, with the command
that runs it; a part of a prompt set is called partial.
"""

import argparse
import html
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

from lima import UserError, exit_codes, runs
from lima.evaluate import (
    report_ablations,
    report_arms,
    report_data,
    report_draw,
    report_json,
    report_open,
    report_runs,
    report_safety,
)
from lima.evaluate.before_after import plain
from lima.evaluate.compare_page import private

STATES = {"here": "here", "partial": "partial", "not run here": "none"}  # and their classes in the page
NAMED = 12  # runs named at the top of the page
PROSE = ("what", "answer", "from", "prompts", "judge", "of training row")  # columns that are read, not compared


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, metavar="PATH", help="runs/NAME … [all in runs/]")
    parser.add_argument("--judgments", type=Path, default=Path("judgments"), help="the verdicts [%(default)s]")
    parser.add_argument("--authors", nargs="+", default=[], metavar="NAME", help="people who are authors, not crowd")
    parser.add_argument("--out", type=Path, default=Path("report"), help="the folder to write [%(default)s]")
    args = parser.parse_args(argv)
    if args.runs and (lost := [run for run in args.runs if not run.is_dir()]):
        raise UserError(f"{lost[0]}: no run there; name folders such as runs/7b")
    if args.judgments != Path("judgments") and not args.judgments.is_dir():
        raise UserError(f"{args.judgments}: no such folder of judgments")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; --out names a folder")
    found = args.runs or sorted(path for path in Path("runs").glob("*") if (path / "recipe.yaml").exists())
    judged = report_data.read_judgments(args.judgments)
    sections = collect(found, judged, args.judgments, args.authors)
    said = head(found, sections)
    runs.write_text(args.out / "index.html", page(sections, said, args.out))
    runs.write_text(args.out / "report.md", markdown(sections, said, args.out))
    drawn = draw(sections, args.out)
    runs.write_text(args.out / "figures.json", json.dumps(report_json.figures(judged, found), indent=1))
    for section in sections:
        print(f"{section.state:12}  {section.title}")
    print(f"wrote  {args.out}/index.html, report.md and {drawn}")
    return 0


def collect(found, judged, folder, authors=()):
    """The sections of the report, in the paper's order, then those without a counterpart in it."""
    datasets, arms = report_runs.datasets(found), report_arms.read(found)
    return [
        report_data.preference(judged, found, people=True),
        report_data.preference(judged, found, people=False),
        report_data.agreed(judged, authors),
        report_data.levels(judged, found),
        report_safety.safety(judged, found),
        report_ablations.grades(judged, found, datasets, arms),
        report_ablations.grades(judged, found, datasets, arms, quantity=True),
        report_ablations.dialogue(judged, found, arms),
        report_runs.epochs(found, judged, folder),
        report_runs.chosen(found),
        report_ablations.structure(found, arms),
        report_open.section(judged, arms),
        report_runs.signs(found),
        report_runs.copies(found),
        report_runs.asked(judged),
        report_runs.hostile(found, judged),
    ]


def head(found, sections):
    """A line on what the report is of."""
    count = {state: sum(section.state == state for section in sections) for state in STATES}
    arms = report_arms.read(found)
    alone = [run.resolve().name for run in found if run not in {arm.run for arm in arms}]
    many = len({(arm.ablation, arm.arm, arm.size) for arm in arms})
    said = [f"{len({arm.run for arm in arms})} runs of {many} arms"] if arms else []
    names = ", ".join(alone[:NAMED] + [f"{len(alone) - NAMED} more"] * (len(alone) > NAMED) + said) or "no run"
    return (
        f"{report_data.PAPER['source']}. Ours: {names}. Of {len(sections)} parts {count['here']} were run here, "
        f"{count['partial']} in part, {count['not run here']} not. Intervals are 95 %, by prompt."
    )


def draw(sections, out):
    """Writes each figure as SVG and PNG; returns in words what was written."""
    figures = [figure for section in sections for figure in section.figures]
    for stem, drawing, said in figures:
        runs.write_text(out / f"{stem}.svg", whole(report_draw.svg_file(drawing, said)))
    try:
        for stem, drawing, _ in figures:
            report_draw.png(drawing, out / f"{stem}.png")
    except UserError as error:
        return f"{len(figures)} figures as .svg\nno .png: {error}"
    return f"{len(figures)} figures as .svg and .png"


def whole(text):
    """Half a surrogate pair in an answer is not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ---- the page ----------------------------------------------------------------------------------------------------------


def page(sections, said, out):
    """The page as HTML: styles and figures in it, nothing fetched, no script."""
    fills = {
        "LIGHT": report_draw.palette(report_draw.LIGHT),
        "DARK": report_draw.palette(report_draw.DARK),
        "CSS": report_draw.css(),
        "HEAD": safe(said),
        "NAV": "".join(map(_entry, sections)),
        "SECTIONS": "".join(_section(section, out) for section in sections),
    }
    template = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    return whole(re.sub(r"<!--([A-Z]+)-->", lambda place: fills[place[1]], template))


def shown(text):
    """A cell's text as one line without control characters; a file's path as seen from here, without a user's name."""
    if isinstance(text, Path):
        text = os.path.relpath(text) if text.resolve().is_relative_to(Path.cwd()) else private(str(text))
    return plain(str(text))


def safe(text):
    """Text for HTML, escaped."""
    return html.escape(shown(text))


def _state(state):
    return f'<span class="state {STATES[state]}">{"run here" if state == "here" else state}</span>'


def _entry(section):
    where = f'<span class="soft">{safe(section.where)}</span>'
    return f'<a href="#{section.name}"><span>{safe(section.title)}</span>{where}{_state(section.state)}</a>'


def _section(section, out):
    figures = "".join(f"<figure>{report_draw.svg(drawing, said)}</figure>" for _, drawing, said in section.figures)
    notes = "".join(f"<li>{safe(note)}</li>" for note in section.notes)
    where = f'<span class="soft">{safe(section.where)}</span>' if section.where else ""
    top = f"<h2>{safe(section.title)}</h2>{where}{_state(section.state)}"
    return (
        f'<section id="{section.name}"><header>{top}</header>'
        + (f'<div class="figures">{figures}</div>' if figures else "")
        + _table(section, out)
        + (f'<ul class="notes soft">{notes}</ul>' if notes else "")
        + "</section>\n"
    )


def _table(section, out):
    if not section.rows:
        return ""
    heads = "".join(f'<th scope="col"{_kind(name)}>{safe(name)}</th>' for name in section.head[1:])
    body = []
    for kind, (first, *cells) in section.rows:
        columns = "".join(_cell(name, cell, out) for name, cell in zip(section.head[1:], cells, strict=True))
        body.append(f'<tr class="{kind}"><th scope="row">{safe(first)}</th>{columns}</tr>')
    return f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(column, cell, out):
    if isinstance(cell, Path):
        text = _anchor(re.sub(r"(?<=[/.-])(?=[\w])", "<wbr>", safe(cell)), cell, out)
    elif isinstance(cell, dict):
        text = ", ".join(_anchor(safe(name), path, out) for name, path in cell.items())
    else:
        text = safe(cell)
    text = f'<b class="partial">{text}</b>' if text.startswith("partial") else text
    return f"<td{_kind(column)}>{text}</td>"


def _anchor(text, path, out):
    return f'<a href="{html.escape(address(path, out))}">{text}</a>'


def _kind(column):
    return ' class="text"' if column in PROSE else ""


def address(path, out):
    """A file's address from the report's folder."""
    return quote(os.path.relpath(path, out))


# ---- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(sections, said, out):
    """The report as Markdown, figures by their files."""
    parts = ["# The paper's figures and ours", marked(said)]
    for section in sections:
        state = "run here" if section.state == "here" else section.state
        parts.append(f"## {marked(section.title)}")
        parts.append(f"{marked(section.where)} · **{state}**" if section.where else f"**{state}**")
        parts += [f"![{marked(said)}]({stem}.svg)" for stem, _, said in section.figures]
        if section.rows:
            lines = [section.head, ["---", *["---:"] * (len(section.head) - 1)]]
            rows = [[marked(name) or " " for name in section.head], lines[1]]
            rows += [[_link(cell, out) for cell in cells] for _, cells in section.rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        parts += ["\n".join(f"- {marked(note)}" for note in section.notes)] if section.notes else []
    return whole("\n\n".join(parts) + "\n")


def _link(cell, out):
    named = cell if isinstance(cell, dict) else {cell: cell} if isinstance(cell, Path) else None
    return (
        ", ".join(f"[{marked(name)}]({address(path, out)})" for name, path in named.items()) if named else marked(cell)
    )


def marked(text):
    """Text for Markdown: one line, nothing in it is markup, a cell's end, or an address that becomes a link."""
    text = re.sub(r"([\\`*_\[\]<>|~&$#!@]|:(?=//))", r"\\\1", shown(text))
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}\\.", text)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
