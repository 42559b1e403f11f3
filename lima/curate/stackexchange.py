"""Stack Exchange dumps → question and answer pairs, by the rules of section 2.1.

Run: python -m lima.curate.stackexchange --config recipes/data/lima-open.yaml --raw DUMPS --out FOLDER

DUMPS is a site's .7z, Posts.xml or <site>_Posts.xml, or a folder of those; Users.xml beside it gives the authors' names.
Since July 2024 whoever fetches the official dump agrees not to train language models with it; earlier dumps carry CC BY-SA
alone. Which one is read is the user's choice.
"""

import re
import sys
from pathlib import Path

import lima
from lima import UserError
from lima.curate import archives, command, ledger, parallel, posts, settings, site

DEFAULTS = {
    "unfiltered": False,
    "unfiltered_questions": 2000,
    "question_min_score": 3,
    "title_min_words": 4,
    "title_cues": [],
    "answer_min_score": 10,
    "answer_characters": [1200, 4096],
    "length_of": "html",
    "first_person_most": 0,
    "first_person_idioms": [],
    "first_person_not_after": [],
    "reference_cues": [],
    "title_share": 0.5,
    "inline_code": "```",
    "sites": {},
}


def read_settings(config):
    """The `stackexchange` section of the recipe at `config`, checked. Raises `UserError`."""
    rules = settings.section(config, "stackexchange", DEFAULTS)
    where = f"{config}: stackexchange"
    span = rules["answer_characters"]
    if len(span) != 2 or not all(type(n) is int for n in span) or not 0 <= span[0] <= span[1]:
        raise UserError(f"{where}.answer_characters: expected [least, most], such as [1200, 4096]; found {span!r}")
    if rules["length_of"] not in ("html", "text"):
        raise UserError(f"{where}.length_of: expected html or text; found {rules['length_of']!r}")
    if not 0 <= rules["title_share"] <= 1:
        raise UserError(f"{where}.title_share: expected a share between 0 and 1; found {rules['title_share']!r}")
    if not re.fullmatch("`+", rules["inline_code"]):
        raise UserError(f"{where}.inline_code: expected backticks; found {rules['inline_code']!r}")
    for name, group in rules["sites"].items():
        if group not in posts.GROUPS:
            raise UserError(f"{where}.sites.{name}: expected {', '.join(posts.GROUPS)}; found {group!r}")
    for key in ("title_cues", "reference_cues", "first_person_idioms", "first_person_not_after"):
        for cue in rules[key]:
            _check_pattern(cue, f"{where}.{key}")
    return rules


def _check_pattern(cue, where):
    try:
        re.compile(cue)
    except (re.error, TypeError) as error:
        raise UserError(f"{where}: {cue!r} is not a regular expression: {error}") from None


def choose(dumps, sites):
    """The dumps that are read, with their group, and why each of the others is not."""
    chosen, left = [], {}
    for dump in dumps:
        group = posts.group(dump.site, sites)
        if group in ("stem", "other"):
            chosen.append((dump, group))
        else:
            known = "too niche, as five of the paper's 179" if group else "not in lima/curate/sites.json"
            left[dump.site] = f"{known}; to take it, set stackexchange.sites.{dump.site}: stem or other"
    return chosen, left


def curate(config, raw, out, seed=0, processes=1, keep_truncated=False, unfiltered=None):
    """Writes the candidates and the ledger of every dump at `raw` into `out`; returns the counts by rule.

    A site whose part stands, made of the same input and settings, is not read again. Raises `UserError`.
    """
    rules = {**read_settings(config), "seed": seed, "keep_truncated": keep_truncated}
    rules["unfiltered"] = rules["unfiltered"] if unfiltered is None else unfiltered
    dumps, out = posts.find(raw), Path(out)
    chosen, left = choose(dumps, rules["sites"])
    for name, why in left.items():
        print(f"  left out: {name}: {why}")
    if not chosen:
        raise UserError(f"{raw}: none of its {len(dumps)} sites is one to read")
    inputs = [path for dump, _ in chosen for path in dump.files()]
    if ledger.done(out, rules, inputs):
        print(f"{out}: stands already, made from these inputs and settings; nothing to do")
        return ledger.counts(out)
    sizes = [sum(archives.size(path, f"{table}.xml") for path, table in site.tables(dump)) for dump, _ in chosen]
    _plan(chosen, sizes, rules, out)
    parts = out / ".sites"
    jobs = [(dump, group, rules, parts / dump.site) for dump, group in chosen]
    return parallel.by_site(site.curate, jobs, sizes, processes, out, rules, inputs, left)


def _plan(chosen, sizes, rules, out):
    print(f"stackexchange: {len(chosen)} sites, {sum(sizes) / 1e6:,.1f} MB → {out}")
    for (dump, group), size in zip(chosen, sizes, strict=True):
        names = "with authors' names" if len(site.tables(dump)) > 1 else "no Users.xml: authors by number"
        print(f"  {dump.site:<20} {group:<6} {size / 1e6:>10,.1f} MB  {names}")
    parallel.show_settings(rules)


def main(argv=None):
    parser = command.arguments(__doc__, "a dump, or a folder of dumps")
    parser.add_argument(
        "--unfiltered", action="store_true", default=None, help="no rule of quality or style (section 5)"
    )
    command.run_sites(curate, parser, argv)


if __name__ == "__main__":
    with lima.exit_codes():
        main(sys.argv[1:])
