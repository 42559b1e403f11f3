"""A saved wikiHow page → an article: what is text, without pictures, citations, adverts and bylines."""

import json
import re
import textwrap
from dataclasses import dataclass, field

from lxml import etree, html

CATEGORIES = (
    "Arts and Entertainment", "Cars & Other Vehicles", "Computers and Electronics", "Education and Communications",
    "Family Life", "Finance and Business", "Food and Entertaining", "Health", "Hobbies and Crafts",
    "Holidays and Traditions", "Home and Garden", "Personal Care and Style", "Pets and Animals",
    "Philosophy and Religion", "Relationships", "Sports and Fitness", "Travel", "Work World", "Youth",
)  # fmt: skip
NOT_TEXT = " | ".join(
    (
        ".//sup[contains(@class, 'reference')]", ".//*[contains(@class, 'ts_popup') or contains(@class, 'mwimg')]",
        ".//*[contains(@class, 'wh_vote') or contains(@class, 'wh_ad') or contains(@class, 'addTip')]",
        ".//*[contains(@class, 'image_details') or contains(@class, 'video-') or contains(@class, 'm-video')]",
        ".//*[contains(@class, 'byline') or contains(@class, 'checkmark') or contains(@class, 'altblock')]",
        ".//script | .//style | .//noscript | .//img | .//picture | .//video | .//iframe | .//figure | .//form",
        ".//*[@hidden] | .//*[contains(translate(@style, ' ', ''), 'display:none')] | .//comment()",
    )
)  # fmt: skip
BLOCKS = ("pre", "table", "blockquote")


@dataclass
class Article:
    """`methods`: [(heading, [step, …])]; `before`, `after`: the sections around them, [(heading, [line, …])]."""

    title: str = ""
    url: str = ""
    category: str = ""
    created: str = ""
    introduction: str = ""
    methods: list = field(default_factory=list)
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    slug: str = ""
    trouble: str = ""

    def __post_init__(self):
        self.slug = self.slug or self.url.rstrip("/").split("/")[-1].split("?")[0]


def read(path):
    """`(article, rule)` of one saved page; the rule is "not_utf8", "not_an_article" or ""."""
    try:
        page = html.document_fromstring(path.read_bytes().decode("utf-8"), parser=html.HTMLParser(remove_pis=True))
    except UnicodeDecodeError as error:
        return Article(slug=path.stem, trouble=f"byte {error.start}"), "not_utf8"
    except (etree.ParserError, ValueError):  # nothing in it; control characters
        return Article(slug=path.stem, trouble="no HTML"), "not_an_article"
    about = _linked_data(page)
    recipe = about.get("HowTo", {})
    titles = [recipe.get("name"), *page.xpath("//h1[1]//text()"), about.get("Article", {}).get("headline")]
    title = next((one_line(name) for name in titles if isinstance(name, str) and name.strip()), "")
    if not title:
        return Article(slug=path.stem, trouble="no title"), "not_an_article"
    url = next(iter(page.xpath("//link[@rel='canonical']/@href")), "")
    created = str(recipe.get("datePublished") or about.get("Article", {}).get("datePublished") or "")[:10]
    article = Article(title, url, _category(page, about), created)
    article.slug = article.slug or path.stem
    article.introduction = _introduction(page)
    _fill(article, page)
    if not article.methods:
        article.methods = _methods_of(recipe)
    return article, ""


def _linked_data(page):
    """`@type` → object, of the page's JSON-LD; what is not JSON is passed over."""
    found = {}
    for script in page.xpath("//script[@type='application/ld+json']/text()"):
        try:
            items = json.loads(script, strict=False)
        except (ValueError, RecursionError):
            continue
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, dict) and isinstance(item.get("@type"), str):
                found.setdefault(item["@type"], item)
    return found


def _category(page, about):
    """The top category: the first of the 19 in the breadcrumbs, else in `wgCategories`; "" if there is none."""
    crumbs = about.get("BreadcrumbList", {}).get("itemListElement")
    names = [c.get("item", {}).get("name") for c in crumbs if isinstance(c, dict)] if isinstance(crumbs, list) else []
    for script in page.xpath("//script[contains(., 'wgCategories')]/text()"):
        if found := re.search(r'wgCategories"?\s*:\s*(\[.*?\])', script):
            try:
                names += json.loads(found.group(1))
            except ValueError:
                continue
    known = {_letters(name): name for name in CATEGORIES}
    return next((known[_letters(name)] for name in names if isinstance(name, str) and _letters(name) in known), "")


def _letters(name):
    return re.sub(r"[^a-z]", "", name.lower().replace("&", "and"))


def _introduction(page):
    for intro in page.xpath("//*[@id='intro']"):
        _prune(intro)
        lines = [one_line(p.text_content()) for p in intro.xpath(".//p")]
        return "\n\n".join(line for line in lines if line)
    return ""


def _fill(article, page):
    """The sections in the page's order: methods, and what stands before and after them."""
    for section in page.xpath("//*[contains(concat(' ', normalize-space(@class), ' '), ' section ')]"):
        classes = section.get("class").split()
        heading = one_line("".join(section.xpath("(.//*[@class='mw-headline'])[1]//text()")))
        if "steps" in classes:
            steps = [_step(s) for s in section.xpath(".//*[contains(concat(' ', @class, ' '), ' step ')]")]
            article.methods.append((heading or "Steps", [step for step in steps if step]))
        elif heading:
            lines = _lines(section)
            (article.after if article.methods else article.before).append((heading, lines))


def _lines(section):
    """A section's list items as `* …` lines, and the lines that stand between its lists."""
    lines = []
    _prune(section)
    for part in section.xpath(".//*[contains(@class, 'section_text')]/*"):
        if part.tag in ("ul", "ol"):
            lines += [f"{'  ' * (depth - 1)}* {text}" for text, depth in _items(part, 1)]
        elif text := one_line(part.text_content()):
            lines += ["", text, ""] if lines else [text, ""]
    return "\n".join(lines).strip().split("\n") if any(lines) else []


def _step(element):
    _prune(element)
    own, depths = [_inline(element)], [0]
    for child in element.iter("ul", "ol", *BLOCKS):
        if next(child.iterancestors("ul", "ol", *BLOCKS), None) in (None, *element.iterancestors()):
            found = [(_block(child), 1)] if child.tag in BLOCKS else _items(child, 1)
            own += [text for text, _ in found]
            depths += [depth for _, depth in found]
    return step_text(own, depths)


def _items(listed, depth):
    """`[(text, depth), …]` of a list and of the lists in its items."""
    out = []
    for item in listed.iterchildren():
        if isinstance(item.tag, str):
            out += [(text, depth)] if (text := _inline(item)) else []
            for child in item.iter("ul", "ol", *BLOCKS):
                if next(child.iterancestors("ul", "ol", *BLOCKS)) in (listed, item):
                    out += [(_block(child), depth)] if child.tag in BLOCKS else _items(child, depth + 1)
    return out


def _prune(element):
    for found in element.xpath(NOT_TEXT):
        if found.getparent() is not None:
            found.drop_tree()


def _inline(element):
    """The element's text outside lists and blocks, in one line; inline code keeps its backquotes."""
    copied = html.fragment_fromstring(etree.tostring(element, encoding="unicode", with_tail=False), create_parent=False)
    for found in list(copied.iter("ul", "ol", *BLOCKS)):
        if found is not copied and found.getparent() is not None:
            found.tail = " " + (found.tail or "")
            found.drop_tree()
    for found in copied.iter("code", "kbd", "tt"):
        found.text, found.tail = "`" + (found.text or ""), "`" + (found.tail or "")
    for found in copied.iter("br", "p", "div", "dd", "dt"):
        found.tail = " " + (found.tail or "")
    return one_line(copied.text_content())


def _block(element):
    if element.tag == "pre":
        return f"```\n{element.text_content().strip(chr(10))}\n```"
    from markdownify import markdownify

    source = etree.tostring(element, encoding="unicode", with_tail=False)
    return markdownify(source, strip=["a", "b", "i", "strong", "em"], escape_misc=False).strip()


def _methods_of(recipe):
    """The methods that JSON-LD tells, for pages whose HTML has no steps: [(heading, [step, …])]."""

    def step(item):
        return step_text([line for line in map(one_line, str(item.get("text") or "").splitlines()) if line])

    methods, loose = [], []
    items = recipe.get("step")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and isinstance(item.get("itemListElement"), list):
            inside = [step(each) for each in item["itemListElement"] if isinstance(each, dict)]
            methods.append((one_line(str(item.get("name") or "Steps")), [text for text in inside if text]))
        elif isinstance(item, dict):
            loose.append(step(item))
    return methods or ([("Steps", [text for text in loose if text])] if loose else [])


def one_line(text):
    """Every run of white space as one space; the space that a removed citation left before a full stop goes."""
    return re.sub(r" ([.,;:!?])(?=\s|$)", r"\1", " ".join(text.replace("\u200b", "").split()))


def step_text(lines, depths=None):
    """A step: its first line is the headline with its paragraph, the others are the items that stood below it.

    As in GAIR/lima, items that are sentences run on in the paragraph, and a list is a list (a tab and `*`) where a
    colon announces it, where its items are no sentences, or where it stood in another. A block of several lines (code,
    a table) stays one. `depths`: how deep each line stood, 0 for the first; unknown where None.
    """
    flat = depths is None
    text, listed, deepest = "", False, 1
    for line, depth in zip(lines, depths or [1] * len(lines), strict=True):
        if not line:
            continue
        if "\n" in line:
            text, listed = text + "\n\n" + textwrap.indent(line, "\t"), True
        elif not text:
            text = line
        elif depth < deepest and _is_sentence(line) and not flat:
            text, listed = text + "\n\n\t" + line, False
        elif listed or depth > 1 or text.endswith(":") or not _is_sentence(line):
            text, listed = text + "\n\t" + "  " * max(depth - 2, 0) + "* " + line, True
        else:
            text += " " + line
        deepest = depth if listed else 1
    return text


def _is_sentence(line):
    return bool(re.search(r"[.!?:…][)\]\"'”’]*$", line))
