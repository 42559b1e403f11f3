"""What reading a Stack Exchange dump costs: a pass over Posts.xml beside a bare lxml loop over the same file, peak memory at
two sizes, two sites in one and in two processes. The files are made here, of synthetic text in the shape of real rows.

Run: PYTHONPATH=. python benchmarks/curate.py [--megabytes 500] [--large 0]
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

WORDS = [
    "water",
    "malt",
    "lecture",
    "vector",
    "because",
    "rather",
    "although",
    "before",
    "doesn't",
    "between",
    "measure",
    "small",
]
QUESTIONS = (-1, 2, 3, 4, 4, 5, 6, 7, 9, 13)  # scores: the deciles of the beer site of 2017
ANSWERS = (-1, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 7, 12)
MARKUP = (
    "{}",
    "&lt;em&gt;{}&lt;/em&gt;",
    "&lt;code&gt;{}&lt;/code&gt;",
    "&quot;{}&quot;",
    "&lt;a href=&quot;http://example.org/{}&quot; rel=&quot;nofollow&quot;&gt;here&lt;/a&gt;",
)
CONFIG = Path(__file__).resolve().parents[1] / "recipes/data/lima-open.yaml"


def paragraph(draw, characters):
    words = [draw.choice(WORDS) for _ in range(characters // 7)]
    for place in range(0, len(words), 12):
        words[place] = draw.choice(MARKUP).format(words[place])
    return f"&lt;p&gt;{' '.join(words)}.&lt;/p&gt;&#xA;&#xA;"


def row(draw, id):
    """A question, then three answers and so on; about 1,300 bytes and 40 entities each, as in real dumps."""
    body = "".join(paragraph(draw, draw.choice((120, 260, 420))) for _ in range(draw.choice((1, 2, 3, 6))))
    score = draw.choice(QUESTIONS if id % 4 == 1 else ANSWERS)
    dates = 'CreationDate="2014-01-21T20:31:18.540" LastActivityDate="2014-01-23T20:31:18.540"'
    common = f'Score="{score}" Body="{body}" OwnerUserId="{id % 9973}" {dates} ContentLicense="CC BY-SA 3.0"'
    if id % 4 == 1:
        title = f"What is the {draw.choice(WORDS)} between {draw.choice(WORDS)} and {draw.choice(WORDS)} {id}?"
        more = f'Title="{title}" Tags="&lt;water&gt;" AnswerCount="3" CommentCount="0" ViewCount="77"'
        return f'  <row Id="{id}" PostTypeId="1" {common} {more} />\n'
    return f'  <row Id="{id}" PostTypeId="2" ParentId="{id - (id - 1) % 4}" {common} CommentCount="1" />\n'


def write(path, megabytes, seed=0):
    """A Posts.xml of so many megabytes; 4,000 drawn bodies, repeated under ids of their own."""
    draw, written, id = random.Random(seed), 0, 0
    shapes = [row(draw, 10**8 + n).split('"', 2)[2] for n in range(1, 4001)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8-sig") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<posts>\n')
        while written < megabytes * 1e6:
            id += 1
            rest = shapes[(id - 1) % 4000]
            if 'ParentId="' in rest:
                before, after = rest.split('ParentId="')
                rest = f'{before}ParentId="{id - (id - 1) % 4}"{after.split(chr(34), 1)[1]}'
            line = f'  <row Id="{id}"{rest}'
            written += len(line)
            file.write(line)
        file.write("</posts>")
    return id


def bare(path):
    """The least that reading the file with lxml costs."""
    from lxml import etree

    count = 0
    for _, element in etree.iterparse(str(path), tag="row", huge_tree=True):
        count += 1
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
    return count


def read(path, folder):
    """The pass of lima/curate/site.py over the file, without what follows it."""
    from lima.curate import ledger, posts, site, stackexchange, store

    settings = {**stackexchange.read_settings(CONFIG), "seed": 0, "keep_truncated": False}
    with ledger.Step(folder) as step, tqdm(disable=True) as bar, store.opened(folder / ".posts.sqlite") as file:
        site.Pass(posts.find(path)[0], step, file, settings).read(bar.update)
    return sum(step.counts.values())


def whole(path, folder, processes=1):
    from lima.curate import stackexchange

    counts = stackexchange.curate(CONFIG, path, folder, processes=processes)
    return sum(counts.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--large", type=int, default=0, help="megabytes of a second file, for its peak memory")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(*args.one)
    with tempfile.TemporaryDirectory(prefix="curate-") as folder:
        folder = Path(folder)
        path = folder / "beer/Posts.xml"
        print(
            f"{path.name}: {write(path, args.megabytes):,} rows, {path.stat().st_size / 1e6:,.0f} MB, {os.cpu_count()} cores"
        )
        best = {}
        for _ in range(3):  # in turn, so that a slow minute hits both
            for what in ("bare", "read"):
                seconds, peak = measure(what, path, folder / "out")
                best[what] = min(best.get(what, (seconds, peak)), (seconds, peak))
        for what, (seconds, peak) in best.items():
            print(f"  {what:<6} {seconds:6.1f} s  {args.megabytes / seconds:5.0f} MB/s  peak {peak:4.0f} MB")
        print(f"  a pass costs {best['read'][0] / best['bare'][0]:.2f} × a bare loop (at most 1.5)")
        seconds, peak = measure("whole", path, folder / "out")
        print(f"  all of it, judged and written: {seconds:.1f} s, peak {peak:.0f} MB")
        if args.large:
            write(path, args.large)
            seconds, large = measure("whole", path, folder / "out")
            print(f"  {args.large:,} MB: {seconds:.1f} s, peak {large:.0f} MB, {large / peak:.2f} × (at most 1.10)")
        write(path, args.megabytes)
        write(folder / "coffee/Posts.xml", args.megabytes)  # the same work: what is measured is not the luck of a draw
        alone, both = (measure("whole", folder, folder / "out", n)[0] for n in (1, 2))
        print(
            f"  two sites of that size: {alone:.1f} s, in two processes {both:.1f} s: {alone / both:.2f} × (at least 1.8)"
        )


def measure(what, *words):
    """Seconds and peak megabytes of one function in a process of its own; imports are not counted."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", what, *map(str, words)], capture_output=True, text=True, check=True
    )
    seconds, peak = done.stdout.splitlines()[-1].split()
    return float(seconds), float(peak)


def one(what, path, folder=None, processes=1):
    import shutil

    import lima.curate.stackexchange  # noqa: F401

    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    start = time.perf_counter()
    if what == "bare":
        bare(path)
    elif what == "read":
        read(Path(path), Path(folder))
    else:
        whole(Path(path), Path(folder), int(processes))
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
