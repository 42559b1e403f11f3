"""wikiHow → candidates (section 2.1 of the paper): "How to …" and the article as clean Markdown.

    python -m lima.curate.wikihow --config recipes/data/lima-open.yaml --raw PAGES --out data/candidates/lima-open/wikihow

Reads saved pages (.html), the public tables (wikihowAll.csv: headline, title, text; wikihowSep.csv: overview and
sectionLabel too) and JSON: a list, or an object a line, of such rows or of articles
{title, url, category, introduction, methods: [{title, steps}], tips}.
"""

import csv
import io
import json
import re
import sys
from collections import Counter

from lima import UserError, exit_codes
from lima.curate import command, wikihow_page
from lima.curate.wikihow_page import Article, one_line, step_text

SUFFIXES = (".html", ".htm", ".csv", ".json", ".jsonl")
LICENSE = "CC BY-NC-SA 3.0"
DEFAULTS = {
    "prompt": "question",
    "prune": [],
    "rename": {},
    "min_characters": 800,
    "max_characters": 18000,
}
LEFT_OVER = {  # what a clean text cannot hold; each is found in some copy of wikiHow
    "wiki markup": r"\[\[|\]\]|\{\{|\}\}|==\w",
    "citation": r"(?m)[^\w\s\[\]]\[\d{1,3}\]|\[\d{1,3}\]$|Research source\b|Trustworthy Source\b|Expert Source\b|Go to source\b",
    "page script": r"WH\.(?:ads|performance|shared|video)",
}


def curate(step, paths, settings, tick):
    """One candidate an article that no rule drops; `group` is its top category, of which wikiHow has 19."""
    if settings["prompt"] not in ("question", "title"):
        raise UserError(f"wikihow.prompt: expected question or title; found {settings['prompt']!r}")
    for text in [*settings["prune"], *settings["rename"], *settings["rename"].values()]:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"wikihow.prune, wikihow.rename: expected text; found {text!r}")
    seen, sections = set(), Counter()
    for path in paths["raw"]:
        for article, trouble in _read(path, tick):
            id = article.slug or path.stem
            rule, detail, answer = trouble, article.trouble, ""
            if not rule:
                answer = render(article, settings, sections)
                rule, detail = dropped_by(article, answer, settings)
            if not rule and id in seen:
                rule, detail = "repeated", ""
            if rule:
                step.drop(f"wikihow/{id}", article.category, rule, detail, answer)
                continue
            seen.add(id)
            step.keep(candidate(id, article, answer, settings))
    step.notes["sections beside the steps"] = dict(sorted(sections.items()))


def dropped_by(article, answer, settings):
    """`(rule, what it found)` of the first rule that drops the article, ("", "") if none does.

    `not_how_to`: the title asks for no instructions. `no_steps`: an outline. `too_short`, `too_long`: characters of the
    answer, our reading (GAIR/lima's 200 rows have 883 to 17,742). `left_over`: markup that the clean-up missed.
    """
    if not article.title.lower().startswith("how to "):
        return "not_how_to", article.title
    if not any(steps for _, steps in article.methods):
        return "no_steps", ""
    if len(answer) < settings["min_characters"]:
        return "too_short", f"{len(answer)} characters"
    if len(answer) > settings["max_characters"]:
        return "too_long", f"{len(answer)} characters"
    for name, pattern in LEFT_OVER.items():
        if found := re.search(pattern, answer):
            return "left_over", f"{name}: {found.group()}"
    return "", ""


def candidate(id, article, answer, settings):
    """The row of candidates.parquet. The prompt is the title, or as a question: lower case, as in GAIR/lima."""
    prompt = article.title
    if settings["prompt"] == "question":
        prompt = "How to " + prompt[len("How to ") :].lower().rstrip("?.! ") + "?"
    return {
        "id": f"wikihow/{id}",
        "source": "wikihow",
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "url": article.url or f"https://www.wikihow.com/{article.slug}",
        "author": "wikiHow",
        "license": LICENSE,
        "score": None,
        "group": article.category,
        "created": article.created,
        "title": article.title,
    }


def render(article, settings, sections=None):
    """The article as GAIR/lima has it: introduction, a `##` heading a method, numbered steps, two empty lines between.

    `prune` lists the headings that are left out. What stands is counted in `sections` by its heading.
    """
    pruned = {_plain(name) for name in settings["prune"]}
    parts = [_renamed(article.introduction, settings["rename"], anywhere=True)] if article.introduction else []
    body = []
    for heading, lines in article.before:
        body += _section(heading, lines, pruned, sections)
    for heading, steps in article.methods:
        numbered = [f"{number}. {text}" for number, text in enumerate(steps, 1)]
        body += [f"## {heading}\n\n" + "\n".join(numbered)] if steps else []
    for heading, lines in article.after:
        body += _section(heading, lines, pruned, sections)
    parts += ["\n\n\n".join(_renamed(part, settings["rename"]) for part in body)] if body else []
    return "\n\n".join(parts).strip()


def _section(heading, lines, pruned, sections):
    if not lines or _plain(heading) in pruned:
        return []
    if sections is not None:
        sections[heading] += 1
    return [f"## {heading}\n\n" + "\n".join(lines)]


def _plain(heading):
    return "".join(char for char in heading.lower() if char.isalnum())


def _renamed(text, names, anywhere=False):
    """ "This article …" → "The following answer …" where a sentence begins; `anywhere`: and "this article" within it."""
    for old, new in names.items():
        cases = [(_capital(old), _capital(new)), (old, new)]
        for before, after in cases[: 1 + anywhere]:
            # "this wikiHow article" is the article too; "this article of clothing" is not
            text = re.sub(rf"\b{re.escape(before)}\b(?: article\b)?(?! of\b)", after, text)
    return text


def _capital(text):
    return text[:1].upper() + text[1:]


def _read(path, tick):
    """`(article, rule)` for everything in one file; the rule is "" unless it cannot be read as an article."""
    kind = path.suffix.lower()
    if kind in (".html", ".htm"):
        yield wikihow_page.read(path)
        tick(path.stat().st_size)
    elif kind == ".csv":
        yield from _from_rows(lambda tick: _csv_rows(path, tick), tick)
    else:
        yield from _from_json(path, tick)


def _csv_rows(path, tick):
    csv.field_size_limit(2**28)
    with open(path, "rb") as file:
        moved = command.meter(file, tick)
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        try:
            if not {"headline", "title", "text"} <= set(rows.fieldnames or ()):
                found = ", ".join(rows.fieldnames or ()) or "nothing"
                raise UserError(f"{path}: expected the columns headline, title, text; found {found}")
            for row in rows:
                yield row
                moved()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text, before byte {file.tell()}") from None
        except csv.Error as error:
            raise UserError(f"{path}: row {rows.line_num}: not CSV ({error})") from None


def _from_json(path, tick):
    lines = path.suffix.lower() == ".jsonl"
    try:
        text = path.read_text(encoding="utf-8-sig")
        items = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(items, list):
        raise UserError(f"{path}: expected a JSON list of articles or rows; found {type(items).__name__}")
    tick(path.stat().st_size)
    yield from _from_rows(lambda moved: filter(_is_row, items), tick)
    for number, item in enumerate(items):
        if not _is_row(item):
            yield _from_object(item, f"{path.stem}-{number}")


def _is_row(item):
    return isinstance(item, dict) and all(isinstance(item.get(name), str) for name in ("headline", "title", "text"))


def _from_object(item, slug):
    if not isinstance(item, dict):
        return Article(slug=slug, trouble=f"a {type(item).__name__}"), "not_an_article"
    article = Article(*(_text(item.get(name)) for name in ("title", "url", "category", "created", "introduction")))
    article.slug = article.slug or _slug(article.title) or slug
    try:
        article.methods = [(_text(m.get("title")) or "Steps", [_step(s) for s in m["steps"]]) for m in item["methods"]]
        for name in ("tips", "warnings"):
            article.after.append((name.title(), [f"* {_text(line)}" for line in item.get(name) or []]))
    except (KeyError, TypeError, AttributeError) as error:
        article.trouble = f"{type(error).__name__}: {error}"
        return article, "not_an_article"
    return article, ""


def _step(step):
    if isinstance(step, dict):
        return step_text([_text(step.get("headline")), *_lines(step.get("text"))])
    return step_text(_lines(step))


def _text(value):
    return one_line(value) if isinstance(value, str) else ""


def _lines(text):
    return [one_line(line) for line in (text or "").splitlines() if one_line(line)]


def _slug(title):
    return re.sub(r"\s+", "-", re.sub(r"^how to ", "", title, flags=re.I).strip())


def _from_rows(rows, tick):
    """Articles from a table that is read twice: its rows are counted, then held until an article's last one is met."""
    counted = Counter(one_line(row["title"] or "") for row in rows(lambda moved: None))
    wanted = Counter()
    for title, count in counted.items():
        wanted[_part(title, counted)[0]] += count
    held = {}
    for row in rows(tick):
        stem, part = _part(one_line(row["title"] or ""), counted)
        held.setdefault(stem, []).append((part, row))
        if len(held[stem]) == wanted[stem]:
            yield _from_parts(stem, [row for _, row in sorted(held.pop(stem), key=lambda pair: pair[0])])


def _part(title, titles):
    """`("How to Draw", 2)` for "How to Draw2" where the table has "How to Draw1" too: a part is a method of one article."""
    for digits in (2, 1):
        stem, number = title[:-digits], title[-digits:]
        if not stem.strip() or not number.isdecimal() or number[0] == "0":
            continue
        if all(f"{stem}{n}" in titles for n in range(1, max(int(number), 2) + 1)):
            return stem, int(number)
    return title, 1


def _from_parts(title, rows):
    article = Article(title, slug=_slug(title))
    if not title or title == "nan":
        article.trouble = f"{len(rows)} rows"
        return article, "no_title"
    separate = rows[0].get("sectionLabel") is not None
    if separate:  # a step a row
        article.introduction = _text(rows[0].get("overview"))
        for row in rows:
            label = _text(row["sectionLabel"]) or "Steps"
            if not article.methods or article.methods[-1][0] != label:
                article.methods.append((label, []))
            article.methods[-1][1].append(step_text([_text(row["headline"]), *_lines(_unseparated(row["text"]))]))
        return article, ""
    for number, row in enumerate(rows, 1):  # a method a row
        heads = [one_line(head) for head in re.split(r",[ \t]*\r?\n", (row["headline"] or "").strip())]
        texts = re.split(r";?[ \t]*\r?\n\s*, ?", row["text"] or "")
        if len(heads) != len(texts):
            article.trouble = f"{len(heads)} headlines, {len(texts)} texts"
            return article, "unpaired_steps"
        steps = [step_text([head, *_lines(_unseparated(text))]) for head, text in zip(heads, texts, strict=True)]
        article.methods.append(("Steps" if len(rows) == 1 else f"Part {number}", steps))
    return article, ""


def _unseparated(text):
    """Without the `;` and `,` that the table's makers left between steps."""
    return re.sub(r"[;,\s]+$", "", text or "").lstrip(" ,;\r\n")


if __name__ == "__main__":
    with exit_codes():
        command.run("wikihow", DEFAULTS, SUFFIXES, curate, __doc__, sys.argv[1:])
