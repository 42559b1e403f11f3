"""Reading Stack Exchange's dumps: where a site's files are, and their rows, one at a time, without trusting them."""

import itertools
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lima import UserError
from lima.curate import archives, attribution

GROUPS = ("stem", "other", "niche")
DOT_COM = ("stackoverflow", "serverfault", "superuser", "askubuntu", "stackapps")
NOT_UTF8 = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"'](?!utf-?8[\"'])", re.IGNORECASE)
FORMERLY = {
    "beer": "alcohol",
    "cogsci": "psychology",
    "health": "medicalsciences",
    "programmers": "softwareengineering",
}


class Dump(NamedTuple):
    """A site's files: `posts` and `users` (None where there is none) are XML files, or .7z archives that hold them."""

    site: str
    posts: Path
    users: Path | None

    def files(self):
        return sorted({path for path in (self.posts, self.users) if path})


def find(raw):
    """The dumps at `raw`: a site's .7z, Posts.xml or <site>_Posts.xml, its folder, or a folder of any of those. By site.

    Raises `UserError` where there is none, or two of one site.
    """
    raw = Path(raw)
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder")
    inside = [raw] if raw.is_file() else sorted([*raw.iterdir(), *raw.glob("*/Posts.xml")])
    found = [_dump(path) for path in inside if _is_posts(path)]
    if not found:
        raise UserError(f"{raw}: no <site>.7z, <site>/Posts.xml or <site>_Posts.xml there")
    found.sort(key=lambda dump: dump.site)
    for one, two in itertools.pairwise(found):
        if one.site == two.site:
            raise UserError(
                f"{raw}: {one.posts.name} and {two.posts.name} are both of {one.site}; keep one of them there"
            )
    return found


def _is_posts(path):
    other = re.search(r"-(?!Posts)[A-Z]\w+\.7z$", path.name)  # Stack Overflow comes as one archive a table
    return path.is_file() and (path.name.endswith("Posts.xml") or (path.suffix == ".7z" and not other))


def _dump(path):
    if path.suffix == ".7z":
        name, cut, _ = path.name.partition("-Posts.7z")
        users = path.with_name(f"{name}-Users.7z") if cut else None
        name = name.removesuffix(".7z")
    else:
        users = path.with_name(path.name.replace("Posts.xml", "Users.xml"))
        name = (
            path.resolve().parent.name
            if path.name == "Posts.xml"
            else path.name.removesuffix("Posts.xml").rstrip("_-.")
        )
    return Dump(site_name(name), path, users if users and users.exists() else None)


def site_name(name):
    """The name by which the table knows a site: `beer` for beer.stackexchange.com and for beer_2017."""
    name = re.sub(r"[_-]\d{4}(-\d\d){0,2}$", "", name.lower())
    return re.sub(r"(\.stackexchange)?\.(com|net)$", "", name)


def host(site):
    """Where the site is read: `beer` → beer.stackexchange.com."""
    if site == "mathoverflow":
        return "mathoverflow.net"
    return f"{site}.com" if site.split(".")[-1] in DOT_COM else f"{site}.stackexchange.com"


@lru_cache(maxsize=1)
def _table():
    return json.loads(Path(__file__).with_name("sites.json").read_text(encoding="utf-8"))


def group(site, sites):
    """`stem`, `other` or `niche` by the recipe's `sites` or by the table (our reading of section 2.1); None: not known."""
    return sites.get(site) or _table().get(FORMERLY.get(site, site))


def license_of(row):
    """The licence of a post: what its row says, or what its date says."""
    return row.get("ContentLicense") or attribution.by_sa(row.get("CreationDate", ""))


class _Meter:
    """A binary file that ticks as it is read, and refuses a DTD.

    libxml2 expands entities in attributes whatever `resolve_entities` says (and is a tenth slower where it says False). They
    can only be declared ahead of the first element, so until a row has come (`inside`), every chunk is looked at before
    libxml2 sees it.
    """

    def __init__(self, file, name, tick):
        self.file, self.name, self.tick, self.tail, self.place, self.inside = file, name, tick, b"", 0, False

    def read(self, size):
        chunk = self.file.read(size)
        if not self.inside:
            self.look(chunk)
        self.tail = chunk or self.tail
        self.place += len(chunk)
        self.tick(len(chunk))
        return chunk

    def look(self, chunk):
        head = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not self.place and not chunk:
            raise UserError(f"{self.name}: 0 bytes; fetch it again")
        if not self.place and (not head.startswith(b"<") or b"\0" in chunk or NOT_UTF8.search(head[:200])):
            raise UserError(f"{self.name}: not an XML file in UTF-8, as dumps are; fetch it again")
        if b"<!" in self.tail[-1:] + chunk:
            raise UserError(f"{self.name}: holds a DTD, an entity or a comment (`<!`), which dumps do not; refused")


def rows(path, table, tick, keep_truncated, notes):
    """The rows of `table` ("Posts", "Users") in `path`, as lxml elements that are gone when the next one comes.

    `tick(bytes)` is called with what was read. Raises `UserError`, with the line, for XML that is broken, is not UTF-8, holds
    a DTD, or ends early; with `keep_truncated`, the last of these is said in `notes` instead.
    """
    from lxml import etree

    with archives.opened(path, f"{table}.xml") as file:
        meter = _Meter(file, path, tick)
        walk = etree.iterparse(meter, tag="row", huge_tree=True, load_dtd=False, no_network=True)
        try:
            for _, row in walk:
                meter.inside = True
                yield row
                row.clear()
                while row.getprevious() is not None:
                    del row.getparent()[0]
        except etree.XMLSyntaxError as error:
            notes["truncated"] = _explain(error, meter, path, keep_truncated)


def _explain(error, meter, path, keep_truncated):
    """Where the file ends early; raises `UserError` for anything else, or where that is not accepted."""
    line, said = error.position[0], " ".join(str(error).split())
    if "UTF-8" in said or "encoding" in said.lower():
        raise UserError(
            f"{path}: line {line}: not UTF-8; fetch it again, or mend it with `iconv -c -f utf-8 -t utf-8`"
        ) from None
    ended = (not meter.file.read(1) and not meter.tail.rstrip().endswith(b">")) or "Premature end" in said
    if not ended:
        raise UserError(f"{path}: line {line}: broken XML: {said}") from None
    where = f"ends early, in line {line}, after {meter.place:,} bytes"
    if not keep_truncated:
        raise UserError(f"{path}: {where}; fetch it again, or use what there is with --keep_truncated") from None
    return where
