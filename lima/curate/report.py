"""One page on a dataset: what fell at which rule, how long its texts are, and rows of every kind to look at.

    python -m lima.curate.report --data data/lima-open          (make data-report DATA=lima-open) → data/lima-open/report.html

`--data` is what the mix wrote, or a folder of candidates before there is a mix. The page fetches nothing and runs no script;
every text in it came from somebody else and is escaped.
"""

import argparse
import heapq
import html
import re
import statistics
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from lima import UserError, exit_codes, runs
from lima.curate import card, ledger
from lima.curate.mixture import candidate_files
from lima.curate.report_draw import flow, histogram
from lima.curate.sampling import key_of

LONGEST = 6000  # characters of a turn that are shown
MOST = 20_000  # candidates that are measured where there is no mix
ASIDE = ("beyond_quota", "not_drawn")  # good candidates that were not needed


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a dataset's folder, or one of candidates")
    parser.add_argument("--out", help="the page (default: DATA/report.html)")
    parser.add_argument("--samples", type=int, default=8, help="rows shown of each rule and source (default: 8)")
    parser.add_argument("--tokenizer", help="a folder with a tokenizer, to count tokens rather than estimate them")
    args = parser.parse_args(argv)
    if not Path(args.data).is_dir():
        raise UserError(f"{args.data}: no such folder; give what `make curate-mix` wrote, or a folder of candidates")
    out = Path(args.out or Path(args.data) / "report.html")
    made = page(Path(args.data), args.samples, counter(args.tokenizer))
    runs.write_text(out, made.encode("utf-8", "replace").decode("utf-8"))
    print(f"{out}: {len(made) / 1e6:.1f} MB, one file; open it in a browser")


def counter(tokenizer):
    """A function of a text's tokens, and how it counts, in words."""
    if not tokenizer:
        return lambda text: len(text) / card.CHARACTERS, f"estimated at {card.CHARACTERS} characters a token"
    from transformers import AutoTokenizer

    if not Path(tokenizer).is_dir():
        raise UserError(f"{tokenizer}: no such folder; give one with a tokenizer, such as bases/7b")
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    name = Path(tokenizer).name
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"]), f"counted with {name}'s tokenizer"


def page(data, samples, count):
    """The page as HTML."""
    mix = ledger.record(data)
    mix = mix if mix and "quotas" in mix["notes"] else None
    root = Path(mix["notes"]["candidates"]) if mix else data
    try:
        steps = [path.parent for path in candidate_files(root)]
    except UserError:
        if not mix:
            raise
        steps = []  # the candidates were removed, the dataset stands
    if mix:  # a mix may use some of the sources alone
        wanted = {quota["source"] for quota in mix["notes"]["quotas"]}
        steps = [step for step in steps if not _sources(step) or wanted & set(_sources(step))]
    rows = _rows(data, steps, mix)
    mixed = _mixed(data) if mix else {}
    fills = {
        "TITLE": html.escape(data.resolve().name),
        "HEAD": _head(mix, rows) if mix else _unmixed(steps),
        "FLOWS": "".join(_flow(step, root, mixed) for step in steps),
        "LENGTHS": "".join(_lengths(source, here, count[0]) for source, here in _by_source(rows).items()),
        "COUNTED": html.escape(count[1]),
        "KEPT": "".join(_kept(source, here, samples) for source, here in _by_source(rows).items()),
        "DROPPED": "".join(_dropped(_name(step, root), step, samples) for step in steps)
        + (_dropped("mix", data, samples) if mix else ""),
    }
    template = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda place: fills[place[1]], template)


# ---- what there is -----------------------------------------------------------------------------------------------------


def _rows(data, steps, mix):
    """The rows of the dataset, each with its `split`; without a mix, the candidates, at most `MOST` of them."""
    if not mix:
        stream = ({**row, "split": "candidates"} for step in steps for row in ledger.candidates(step))
        return heapq.nsmallest(MOST, stream, key=lambda row: key_of("report", row["id"]))
    lines = {line["id"]: line for line in runs.read_jsonl(data / "review.jsonl")}
    found = []
    for split in ("train", "dev", "test"):
        for row in runs.read_jsonl(data / f"{split}.jsonl"):
            found.append({**row, "split": split, "flags": lines.get(row["id"], {}).get("flags", {})})
    return found


def _sources(step):
    return pq.read_table(step / ledger.CANDIDATES, columns=["source"])["source"].unique().to_pylist()


def _by_source(rows):
    found = {}
    for row in rows:
        name = row["source"] if row["split"] in ("train", "candidates") else f"{row['source']}, {row['split']}"
        found.setdefault(name, []).append(row)
    return found


def _mixed(data):
    """source → what the mix made of its candidates: rule → how many, and those chosen by split."""
    found = {}
    for line in ledger.lines(data):
        name = line["rule"] or line["detail"].split(";")[0]
        found.setdefault(line["group"], Counter())[(line["rule"] != "", name)] += 1
    return found


def _name(step, root):
    return str(step.relative_to(root)) if step != root else step.name


# ---- the parts of the page ---------------------------------------------------------------------------------------------


def _unmixed(steps):
    kept = sum(ledger.counts(step).get("", 0) for step in steps)
    sampled = f", of which {MOST:,} are measured" if kept > MOST else ""
    return f'<p class="soft">{kept:,} candidates{sampled}, not mixed yet</p>'


def _head(mix, rows):
    facts = [f"{count:,} {split}" for split, count in Counter(row["split"] for row in rows).items()]
    notes, settings = mix["notes"], mix["settings"]
    facts += [f"seed {settings['seed']}", f"dataset {notes.get('fingerprint', 'without a train split')}"]
    decided = ", ".join(f"{count} {name}" for name, count in notes["decisions"].items())
    facts += [f"decisions: {decided}"] if decided else []
    lines = "".join(map(_quota, notes["quotas"]))
    return (
        f'<p class="soft">{html.escape(" · ".join(facts))}</p><div class="scroll"><table><thead><tr><th scope="col">source</th>'
        f'<th scope="col">chosen</th><th scope="col">candidates</th>'
        f"</tr></thead>{lines}</table></div>"
    )


def _quota(quota):
    name = quota["source"] + (f" / {quota['group']}" if quota["group"] else "")
    name += f", {quota['split']}" if quota["split"] != "train" else ""
    short = quota["chosen"] < quota["rows"]
    share = 100 * quota["chosen"] / quota["rows"] if quota["rows"] else 100
    bar = f'<i class="meter"><i style="width:{share:.0f}%"></i></i>'
    chosen = f'{bar}<span class="count">{quota["chosen"]:,}</span> <span class="soft">of {quota["rows"]:,}</span>'
    row = "".join(f"<td>{cell}</td>" for cell in (chosen, f"{quota['available']:,}"))
    return f'<tr class="{"short" * short}"><th scope="row">{html.escape(name)}</th>{row}</tr>'


def _flow(step, root, mixed):
    """A step's ledger, and then what the mix made of the sources that it gave, in one picture."""
    counted = dict(ledger.counts(step))
    kept = counted.pop("", 0)
    total = kept + sum(counted.values())
    parts = [("in", "considered", total, "")]
    parts += [("drop", rule, count, _share(count, total)) for rule, count in _largest(counted)]
    parts.append(("mark" if mixed else "end", "candidates", kept, _share(kept, total)))
    if mixed:
        fell, chosen = Counter(), Counter()
        for source in _sources(step):
            for (is_rule, name), count in mixed.get(source, {}).items():
                (fell if is_rule else chosen)[name] += count
        parts += [("drop", rule, count, _share(count, kept)) for rule, count in _largest(fell) if rule not in ASIDE]
        parts += [("aside", rule, fell[rule], _share(fell[rule], kept)) for rule in ASIDE if fell[rule]]
        parts.append(("end", "chosen", sum(chosen.values()), ""))
        parts += [("part", f"in {split}", count, "") for split, count in sorted(chosen.items()) if len(chosen) > 1]
    return f"<figure><h3>{html.escape(_name(step, root))}</h3>{flow(parts)}</figure>"


def _largest(counted):
    return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))


def _share(part, whole):
    share = 100 * part / whole if whole else 0
    return f"{share:.0f} %" if share >= 1 or not part else "<1 %"


def _lengths(source, rows, count):
    split = "train" if rows[0]["split"] == "candidates" else rows[0]["split"]
    paper, parts = card.PAPER.get((split, rows[0]["source"]), (None, None)), []
    for role, name, stated in (("user", "prompt", paper[0]), ("assistant", "response", paper[1])):
        turns = [next((t["content"] for t in row["messages"] if t["role"] == role), None) for row in rows]
        values = [count(turn) for turn in turns if turn]
        if values:
            said = f"mean {statistics.mean(values):,.0f}" + (
                f', paper <b class="paper">{stated:,}</b>' if stated else ""
            )
            parts.append(
                f'<p class="caption"><span>{name}</span><span>{said}</span></p>{histogram(values, stated, name)}'
            )
    return f'<figure><h3>{html.escape(source)} <span class="soft">{len(rows):,}</span></h3>{"".join(parts)}</figure>'


def _kept(source, rows, samples):
    shown = heapq.nsmallest(samples, rows, key=lambda row: key_of("report", row["id"]))
    flagged = [row for row in rows if row.get("flags") and row not in shown][:samples]
    body = "".join(map(_whole, shown)) + "".join(map(_whole, flagged))
    more = f", and {len(flagged)} flagged" if flagged else ""
    return _details(source, f"{len(shown)} of {len(rows):,}{more}", body)


def _whole(row):
    facts = [_link(row), html.escape(row["author"] or ""), html.escape(row["license"] or "")]
    facts += [f"score {row['score']:,}" if row["score"] is not None else ""]
    facts += [
        f'<b class="flag">{html.escape(f"{name}: {found}")}</b>' for name, found in (row.get("flags") or {}).items()
    ]
    facts += ["edited by hand"] if "edited" in row else []
    turns = "".join(
        f'<pre class="{html.escape(turn["role"])}" dir="auto">{_cut(turn["content"])}</pre>' for turn in row["messages"]
    )
    return f'<article><p class="facts">{" · ".join(filter(None, facts))}</p>{turns}</article>'


def _dropped(name, folder, samples):
    """Sampled lines of a ledger, by rule."""
    held = {}
    for line in ledger.lines(folder):
        if line["rule"] and line["rule"] != "not_drawn":
            heap = held.setdefault(line["rule"], [])
            key = (-key_of("report", line["id"]), len(heap))
            if len(heap) < samples:
                heapq.heappush(heap, (key, line))
            elif key > heap[0][0]:
                heapq.heapreplace(heap, (key, line))
    counted = ledger.counts(folder)
    parts = []
    for rule, _ in _largest({rule: counted[rule] for rule in held}):
        lines = [line for _, line in sorted(held[rule], key=lambda pair: pair[0], reverse=True)]
        parts.append(_details(rule, f"{len(lines)} of {counted[rule]:,}", "".join(map(_line, lines))))
    return f"<h3>{html.escape(name)}</h3>{''.join(parts)}" if parts else ""


def _line(line):
    facts = " · ".join(html.escape(text) for text in (line["id"], line["group"]) if text)
    detail = f'<p class="found" dir="auto">{_cut(line["detail"])}</p>' if line["detail"] else ""
    excerpt = f'<pre dir="auto">{_cut(line["excerpt"])}</pre>' if line["excerpt"] else ""
    return f'<article><p class="facts">{facts}</p>{detail}{excerpt}</article>'


def _details(name, said, body):
    return (
        f"<details><summary><span>{html.escape(name)}</span><span>{html.escape(said)}</span></summary>{body}</details>"
    )


def _link(row):
    try:
        good = urlsplit(row["url"] or "").scheme in ("http", "https")
    except ValueError:
        good = False
    name = html.escape(row["id"])
    return f'<a href="{html.escape(row["url"])}" rel="noopener noreferrer">{name}</a>' if good else name


def _cut(text):
    return html.escape(text[:LONGEST]) + (" …" if len(text) > LONGEST else "")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
