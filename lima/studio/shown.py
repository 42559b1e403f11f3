"""What a model or a data source wrote → HTML that can be looked at and can do nothing.

Markdown is rendered so that it reads well; HTML, images and links in it stay the text that they are, formulas too. Nothing is
fetched, nothing runs, and no character turns the rest of the page around.
"""

import html
import re
from functools import lru_cache

from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

LONG = 20_000  # characters from which on a text is shown plain: Markdown costs time, and nobody formats that much
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
AS_TEXT = ("html_inline", "html_block", "image", "link", "autolink", "reference", "entity", "escape")

_markdown = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .use(texmath_plugin, delimiters="brackets")
    .use(dollarmath_plugin, allow_space=False, allow_digits=False, allow_labels=False, double_inline=True)
    .use(amsmath_plugin)
    .enable(["table", "strikethrough"])
    .disable(AS_TEXT)
)


ENDS = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def _formula(self, tokens, index, options, env):
    token = tokens[index]
    text = html.escape(token.markup + token.content + ENDS.get(token.markup, token.markup))
    return f'<pre class="math">{text}</pre>' if token.block else f'<code class="math">{text}</code>'


def _fence(self, tokens, index, options, env):
    info, code = html.escape(tokens[index].info.strip()), html.escape(tokens[index].content)
    return f"<pre><code>{f'<i>{info}</i><br>' if info else ''}{code}</code></pre>\n"


_markdown.add_render_rule("fence", _fence)
for name in ("math_inline", "math_inline_double", "math_block", "math_block_eqno", "math_block_label", "amsmath"):
    _markdown.add_render_rule(name, _formula)


@lru_cache(maxsize=4096)
def as_html(text):
    """Markdown as HTML of a few plain elements without any address."""
    text = visible(text.replace("\r\n", "\n"))
    if len(text) > LONG:
        return f"<pre>{html.escape(text)}</pre>"
    return _markdown.render(text)


def visible(text):
    """The text with characters that cannot be seen, or that turn the writing's direction, as `[U+202E]`."""
    return UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
