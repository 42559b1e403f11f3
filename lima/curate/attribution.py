"""ATTRIBUTION.md: who wrote each row, where it stands and under which licence, as CC BY-SA asks.

Every name and title came from a dump: here they are escaped, and only http(s) addresses become links.
"""

import html
import re
from collections import Counter
from itertools import groupby
from urllib.parse import quote, urlsplit

SINCE = (("2018-05-02", "4.0"), ("2011-04-08", "3.0"), ("", "2.5"))  # Stack Exchange's terms, by a post's date
DEEDS = {
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY-SA 2.5": "https://creativecommons.org/licenses/by-sa/2.5/",
    "CC BY-NC-SA 3.0": "https://creativecommons.org/licenses/by-nc-sa/3.0/",
}
CHANGED = {
    "stackexchange": "The prompt is the question's title or its description, the response its top answer. Both were turned "
    "from HTML into Markdown; links became their text; images and some markup were left out.",
    "multi_turn": "Those from Stack Exchange are a question, an answer and comments under it, joined into turns; HTML became "
    "Markdown, links became their text, names in address were left out. A person may have edited them since.",
    "wikihow": "The prompt is the article's title. The article was turned into Markdown; links became their text; images, "
    'references and some sections were left out; "This article" became "The following answer".',
}


def licence(row):
    """The licence that a row states; for one from Stack Exchange that states none, CC BY-SA in the version of its date."""
    if row["license"] or not row["source"].startswith("stackexchange"):
        return row["license"] or ""
    created = row["created"] or ""
    if not re.match(r"\d{4}-\d\d-\d\d", created):
        return "CC BY-SA"
    return by_sa(created)


def by_sa(created):
    """Stack Exchange's licence of a post of that day, an ISO date or time."""
    return f"CC BY-SA {next(version for since, version in SINCE if created >= since)}"


def page(name, rows):
    """The whole of ATTRIBUTION.md, for the rows of all splits."""
    rows = sorted(rows, key=lambda row: (_site(row), row["id"]))
    parts = [f"# Who wrote {text(name)}"]
    parts.append(
        f"{len(rows):,} rows. Each that has an author or an address is named below with its licence, which holds for it here "
        "too: keep the names when you pass rows on, and share what you make of share-alike rows under the same licence."
    )
    stated = Counter(licence(row) or "not stated" for row in rows)
    lines = [f"- {_deed(name)}: {count:,} rows" for name, count in sorted(stated.items())]
    parts.append("\n".join(lines))
    named = [row for row in rows if row["author"] or row["url"] or "edited" in row]
    unnamed = Counter(row["source"] for row in rows) - Counter(row["source"] for row in named)
    for site, here in groupby(named, key=_site):
        here = list(here)
        parts.append(f"## {text(site)} ({len(here):,})")
        if changes := next((said for prefix, said in CHANGED.items() if here[0]["source"].startswith(prefix)), None):
            parts.append(f"Changed: {changes}")
        parts.append("\n".join(map(_line, here)))
    if unnamed:
        parts.append("## Without an author or an address")
        parts.append("\n".join(f"- {text(source)}: {count:,} rows" for source, count in sorted(unnamed.items())))
    return "\n\n".join(parts) + "\n"


def _site(row):
    if row["source"].startswith("stackexchange"):
        return f"Stack Exchange, {row['group']}"
    return row["source"]


def _line(row):
    title = text(row["title"] or row["id"])
    where = f"[{title}]({link})" if (link := address(row["url"])) else title
    edited = f", edited by {text(row['edited']['who'])}" if "edited" in row else ""
    named = text(row["author"]) if row["author"] else "(the author is not in the dump; the page names them)"
    return f"- {where} by {named}, {text(licence(row) or 'licence not stated')}{edited} `{_code(row['id'])}`"


def _deed(name):
    return f"[{name}]({DEEDS[name]})" if name in DEEDS else text(name)


def text(value):
    """Anything as one line of Markdown that says just that."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", plain).replace("://", ":\u200b//")


def address(url):
    """The address as Markdown's brackets can hold it, or "" where it is none of the web's."""
    try:
        good = urlsplit(url or "").scheme in ("http", "https")
    except ValueError:
        good = False
    return quote(url, safe=":/?#&=%~+,;@!.-_") if good else ""


def _code(value):
    return re.sub(r"[^\w./:@+-]", "_", str(value))
