"""Stack Exchange dumps → dialogue chains, to be edited by hand (section 6 of the
paper: 20 of its 30 began as comments).

    python -m lima.curate.dialogues --config recipes/data/lima-open.yaml \\
        --raw DUMPS --out data/candidates/lima-open/dialogues

A question, an answer by somebody else, and what the two went on to say in the
comments under it. DUMPS is what `lima.curate.stackexchange` reads, with
Comments.xml beside each Posts.xml or in the same .7z. What is kept is a list to
choose from: `make curate-mix` draws 30 and ranks twice as many in review.jsonl,
where a person accepts, rejects and edits (decisions.jsonl).
"""

import re
import sys
from pathlib import Path

import lima
from lima import UserError
from lima.curate import archives, chains, command, ledger, parallel, posts, settings, stackexchange

DEFAULTS = {
    "answer_min_score": 3,
    "most_turns": 8,
    "follow_up_characters": 15,
    "reply_characters": 40,
    "others": "end",
    "acknowledgements": [],
    "site_talk": [],
}


def read_settings(config):
    """The `dialogues` section of the recipe at `config`, checked; sites and the mark of code are those of `stackexchange`."""
    rules = settings.section(config, "dialogues", DEFAULTS)
    where = f"{config}: dialogues"
    if rules["most_turns"] < 4:
        raise UserError(
            f"{where}.most_turns: expected 4 or more, question and answer being two; found {rules['most_turns']}"
        )
    if rules["others"] not in ("end", "skip"):
        raise UserError(f"{where}.others: expected end or skip; found {rules['others']!r}")
    for key in ("acknowledgements", "site_talk"):
        for cue in rules[key]:
            try:
                re.compile(cue)
            except (re.error, TypeError) as error:
                raise UserError(f"{where}.{key}: {cue!r} is not a regular expression: {error}") from None
    return {**rules, **{key: stackexchange.read_settings(config)[key] for key in ("sites", "inline_code")}}


def find(raw, sites):
    """The sources at `raw`, and site → why it is left out. Raises `UserError` where no site is left."""
    chosen, left = stackexchange.choose(posts.find(raw), sites)
    found = [(dump, *_comments(dump.posts)) for dump, _ in chosen]
    lacks = {dump.site: why for dump, path, why in found if not path}
    sources = [chains.Source(dump, path) for dump, path, _ in found if path]
    if not sources:
        name, why = next(iter({**lacks, **left}.items()))
        raise UserError(why if lacks else f"{raw}: no site to read; {name}: {why}")
    return sources, {**left, **lacks}


def _comments(path):
    """Where the Comments.xml is that belongs to a Posts.xml, or to an archive with it: (path, ""), or (None, what to do)."""
    own = path.with_name(re.sub(r"Posts(?=\.(?:xml|7z)$)", "Comments", path.name))
    if own == path:  # one archive has all of a site's tables
        there, lacks = archives.holds(path, "Comments.xml"), "holds no Comments.xml"
    else:
        there, lacks = own.exists(), "no such file"
    if there:
        return own, ""
    where = "dumps have it in <site>.7z (Stack Overflow: stackoverflow.com-Comments.7z)"
    return None, f"{own}: {lacks}; dialogues need the comments beside Posts.xml; {where}"


def curate(config, raw, out, seed=0, processes=1, keep_truncated=False):
    """Writes the candidates and the ledger of every dump at `raw` into `out`; returns the counts by rule.

    A site whose part stands, made of the same input and settings, is not read again. Raises `UserError`.
    """
    rules = {**read_settings(config), "seed": seed, "keep_truncated": keep_truncated}
    (sources, left), out = find(raw, rules["sites"]), Path(out)
    for name, why in left.items():
        print(f"  left out: {name}: {why}")
    inputs = [path for source in sources for path in source.files()]
    if ledger.done(out, rules, inputs):
        print(f"{out}: stands already, made from these inputs and settings; nothing to do")
        return ledger.counts(out)
    sizes = [source.size() for source in sources]
    sites = f"{len(sources)} site{'s' * (len(sources) != 1)}"
    print(f"dialogues: {sites}, {sum(sizes) / 1e6:,.1f} MB to read, Posts.xml twice → {out}")
    for source, size in zip(sources, sizes, strict=True):
        names = "with authors' names" if len(source.tables()) > 3 else "no Users.xml: authors by number"
        print(f"  {source.dump.site:<20} {size / 1e6:>10,.1f} MB  {names}")
    parallel.show_settings(rules)
    parts = out / ".sites"
    jobs = [(source, rules, parts / source.dump.site) for source in sources]
    return parallel.by_site(chains.curate, jobs, sizes, processes, out, rules, inputs, left)


def main(argv=None):
    raw, seed = (
        "a dump, or a folder of dumps, with Comments.xml",
        "as in the other steps; here nothing is chosen at random",
    )
    command.run_sites(curate, command.arguments(__doc__, raw, seed), argv)


if __name__ == "__main__":
    with lima.exit_codes():
        main(sys.argv[1:])
