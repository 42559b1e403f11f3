"""A post's HTML as the text that GAIR/lima has (section 2.1): code blocks, inline code, lists, quotes, headings and tables
stay, as Markdown; links become their text; images, emphasis and every other tag go; LaTeX is left whole."""

import re
import warnings

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, NavigableString
from markdownify import ATX, MarkdownConverter

from lima import UserError

GONE = "\x00"  # where an address was; XML cannot hold this character
ADDRESS = re.compile(r"\b(?:https?|ftp)://[^\s<>\"]*[^\s<>\"'.,;:!?)\]}»”’]")
LANGUAGE = re.compile(r"lang(?:uage)?-([\w+#.-]+)")
LEFT_OUT = ("img", "video", "iframe", "object", "s", "del", "strike")  # the last three: the writer took it back
AROUND = ("a", "b", "strong", "i", "em", "span", "sub", "sup")  # such a tag goes with the image that is all it holds
NO_LANGUAGE = ("none", "default", "override")

FENCED = re.compile(r"(`{3,}).*?\1", re.DOTALL)
INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)[^\n]+?(?<!`)\1(?!`)")
MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])[^$\n]{1,300}?(?<!\s)\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
DISPLAY = re.compile(r"\$\$|\\begin\{|\\\[")
QUOTED_LINE = re.compile(r"^[ \t]*(?:[*+-] +|\d+\. +)?>.*$", re.MULTILINE)
QUOTED = re.compile(
    r"\"[^\"\n]{1,1000}\"|“[^”\n]{1,1000}”|«[^»\n]{1,1000}»|„[^“”\n]{1,1000}[“”]"
    r"|(?<![\w'’])['‘](?!\d)[^'’\n]{1,300}(?:['’](?=\w)[^'’\n]{1,300}){0,5}['’](?!\w)"
)

warnings.filterwarnings("ignore", category=MarkupResemblesLocatorWarning)  # a body may be nothing but an address


class _Converter(MarkdownConverter):
    """markdownify, with the tags that the paper takes away taken away."""

    class Options(MarkdownConverter.DefaultOptions):
        heading_style = ATX
        bullets = "*"
        escape_asterisks = escape_underscores = False  # a reader of plain text, and LaTeX, want no backslashes
        table_infer_header = True
        inline_code = "```"

    def process_text(self, el, parent_tags=None):
        text = super().process_text(el, parent_tags)
        if "_noformat" in parent_tags:
            return text
        if getattr(el.previous_sibling, "name", None) == "br":
            text = text.lstrip(" \n")  # the dump has a line break after the tag, too
        if not DISPLAY.search(text):
            text = text.replace("\n", " ")  # the writer's editor wrapped here; HTML means a space
        return ADDRESS.sub(GONE, text.replace(GONE, "")).replace("\xa0", " ")

    def plain(self, el, text, parent_tags):
        return text

    def nothing(self, el, text, parent_tags):
        return ""

    convert_a = convert_b = convert_strong = convert_i = convert_em = convert_kbd = convert_sub = plain
    convert_img = convert_video = convert_iframe = convert_object = nothing
    convert_s = convert_del = convert_strike = convert_hr = nothing

    def convert_br(self, el, text, parent_tags):
        return " " if "_inline" in parent_tags else "\n"

    def convert_p(self, el, text, parent_tags):
        return super().convert_p(el, re.sub(r"[ \t]+\n", "\n", text), parent_tags)

    def convert_hN(self, n, el, text, parent_tags):
        return super().convert_hN(max(n, 2), el, text, parent_tags)

    def convert_sup(self, el, text, parent_tags):
        """`10<sup>5</sup>` is not 105; a footnote's mark after a word loses its tag, as in GAIR/lima."""
        before = str(el.previous_sibling or "")[-1:]
        return f"^{text}" if before.isdigit() and re.fullmatch(r"[-+−–]?\w+", text) else text

    def convert_code(self, el, text, parent_tags):
        if "_noformat" in parent_tags or not text.strip():
            return text if "_noformat" in parent_tags else ""
        fence, inside = self.options["inline_code"], text.strip()
        if "`" in inside:
            fence = "`" * max(len(fence), 1 + max(map(len, re.findall("`+", inside))))
            inside = f" {inside} "
        left, right = (" " * text.startswith(" "), " " * text.endswith(" "))
        return f"{left}{fence}{inside}{fence}{right}"

    def convert_pre(self, el, text, parent_tags):
        if not text.strip():
            return ""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        text = re.sub(r"\A(?:[ \t]*\r?\n)+", "", text).rstrip()
        return f"\n\n{fence}{_language(el)}\n{text}\n{fence}\n\n"

    def convert_td(self, el, text, parent_tags):
        return super().convert_td(el, text.replace("|", r"\|"), parent_tags)

    convert_th = convert_td


def _language(pre):
    """The language that a code block names in its class, such as `lang-py`; "" where there is none."""
    names = [name for tag in (pre, pre.code) if tag is not None for name in tag.get("class", ())]
    found = (LANGUAGE.fullmatch(name) for name in names)
    return next((m.group(1) for m in found if m and m.group(1) not in NO_LANGUAGE), "")


def from_html(html, inline_code="```"):
    """The Markdown of a post's HTML; entities are decoded once.

    `inline_code` is the mark around inline code: three backticks in GAIR/lima, and Markdown too. Raises `UserError` for
    HTML nested too deep to walk.
    """
    try:
        soup = BeautifulSoup(html, "lxml")
        _leave_out(soup)
        text = _Converter(inline_code=inline_code).convert_soup(soup)
    except RecursionError:
        raise UserError("HTML nested too deep to read") from None
    return (_close_up(text) if GONE in text else text).strip()


def _leave_out(soup):
    """Takes images and the like out of a sentence with the space that would stand there twice, or before a comma; not in code."""
    found = [tag for tag in soup.find_all(LEFT_OUT) if not tag.find_parent(["pre", "code"])]
    for tag in found:
        if tag.decomposed:  # with what was around it
            continue
        tag.clear(decompose=True)
        while tag.parent.name in AROUND and next(tag.parent.stripped_strings, None) is None:
            tag = tag.parent
        before, after = tag.previous_sibling, tag.next_sibling
        tag.decompose()
        if isinstance(before, NavigableString) and isinstance(after, NavigableString) and after[:1] in tuple(".,;:!?)"):
            before.replace_with(before.rstrip())
    if found:
        soup.smooth()  # one text where the sentence was in pieces: its white space is one space then


def _close_up(text):
    """The text without the marks of addresses, and without what stood there for their sake alone."""
    text = re.sub(rf"[(\[<]\s*{GONE}\s*[)\]>]", GONE, text)
    text = re.sub(
        rf"^(?!```)[^\n{GONE}]{{0,30}}{GONE}[\s.{GONE}]*$\n?", "", text, flags=re.MULTILINE
    )  # "Sourced from …"
    text = re.sub(rf"[ ]*{GONE}(?=[\s.,;:!?)])", "", text).replace(GONE, "")
    return re.sub(r"\n{3,}", "\n\n", text)


def line(text):
    """A title on one line."""
    return " ".join(text.split())


def prose(text):
    """What the writer says in their own voice: without code, formulas, quoted lines and quoted speech, of which a space is
    left."""
    for pattern in (FENCED, INLINE, MATH, QUOTED_LINE, QUOTED):
        text = pattern.sub(" ", text)
    return text
