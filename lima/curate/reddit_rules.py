"""What drops a Reddit submission or comment, as data: a rule is a name and a function that says what it found, or "".

The paper (section 2.1) picked by hand from the most upvoted posts; every rule here is our reading of what a hand would
leave out. Thresholds and cue lists stand in the data recipe.
"""

import html
import re

GONE = ("[removed]", "[deleted]", "[deleted by user]", "[ removed by moderator ]", "[ removed by reddit ]")


def nsfw(post, settings):
    """Marked "not safe for work" by its author or the moderators."""
    return "over_18" if post.get("over_18") else ""


def removed(post, settings):
    """Taken down: by a moderator, a filter or Reddit."""
    texts = [str(post.get(name) or "").strip().lower() for name in ("title", "selftext", "body")]
    found = next((text for text in texts if text in GONE and "deleted" not in text), "")
    return found or str(post.get("removed_by_category") or post.get("banned_by") or "")


def deleted(post, settings):
    """Withdrawn by its author; what is left has nobody to credit."""
    texts = [str(post.get(name) or "").strip().lower() for name in ("author", "title", "selftext", "body")]
    return next((text for text in texts if text in GONE and "deleted" in text), "")


def stickied(post, settings):
    """Pinned to the top, or written in a moderator's or an administrator's name: about the place, not its content."""
    return "stickied" if post.get("stickied") else str(post.get("distinguished") or "")


def bot(post, settings):
    """Written by a program: a listed account, or a name that ends in "bot" or "_bot"."""
    name = str(post.get("author") or "")
    known = {listed.lower() for listed in settings["bots"]}
    return name if name.lower() in known or re.search(r"(?:[a-z]Bot|[-_]bot|BOT)$", name) else ""


def promoted(post, settings):
    """An advertisement."""
    return "promoted" if post.get("promoted") else ""


def unpopular(post, settings):
    """Fewer points than the recipe asks for."""
    return f"{post['score']} points" if post["score"] < settings["min_score"] else ""


def meta(post, settings):
    """About the forum: its tag (text in brackets) or its flair is not one of those that hold prompts."""
    tag = re.match(r"\s*\[([^\]]{1,40})\]", post["title"])
    allowed = {name.lower() for name in settings["tags"]}
    if tag and tag.group(1).strip().lower() not in allowed:
        return f"[{tag.group(1)}]"
    flair = str(post.get("link_flair_text") or "")
    return flair if re.search("|".join(settings["meta_flairs"]) or r"(?!)", flair, re.I) else ""


def untagged(post, settings):
    """r/WritingPrompts asks for a tag such as [WP]; posts without one are not prompts."""
    return "" if not settings["tag_needed"] or re.match(r"\s*\[[^\]]+\]", post["title"]) else "no tag"


def has_body(post, settings):
    """Not title-only: the question, or the prompt, goes on below the title, or it is a link."""
    if str(post.get("selftext") or "").strip():
        return "text below the title"
    return "a link" if post.get("is_self") is False else ""


def prompt_length(post, settings):
    """The title, without its tag, is shorter or longer than the recipe allows (characters)."""
    size = len(prompt(post["title"]))
    return "" if settings["min_prompt"] <= size <= settings["max_prompt"] else f"{size} characters"


def no_question(post, settings):
    """An AskReddit title without a question mark."""
    return "" if "?" in post["title"] else "no question mark"


def not_standalone(post, settings):
    """A title that asks the readers about their own lives, or names Reddit: no question for an assistant."""
    return _cue(post["title"], settings["cues"])


def too_short(comment, settings):
    """A response shorter than the recipe allows (characters after clean-up)."""
    size = len(story(comment["body"]))
    return f"{size} characters" if size < settings["min_characters"] else ""


def too_long(comment, settings):
    """A response longer than the recipe allows (characters after clean-up)."""
    size = len(story(comment["body"]))
    return f"{size} characters" if size > settings["max_characters"] else ""


def about_itself(comment, settings):
    """A response that talks of itself, of its author's other work, or of the forum."""
    return _cue(story(comment["body"]), settings["comment_cues"])


ALWAYS = (nsfw, removed, deleted, stickied, bot, promoted)
WRITING = (*ALWAYS, meta, untagged, has_body, prompt_length, unpopular)
ASK = (*ALWAYS, meta, has_body, no_question, not_standalone, prompt_length, unpopular)
COMMENT = (removed, deleted, stickied, bot, too_short, too_long, about_itself, unpopular)


def prompt(title):
    """A title as a prompt: entities decoded once, tags such as [WP] and [Serious] gone."""
    text = " ".join(html.unescape(title).replace("\u200b", "").split())
    text = re.sub(r"^(?:\[[^\]]{1,40}\]\s*)+[-:–—]?\s*|\s*[\[(](?:serious|nsfw)[\])](?=[.?!]*$)", "", text, flags=re.I)
    return text.strip()


NOTE = re.compile(
    r"^[\s*_~^(>\-]*(?:edit\b|eta\b|update\b|(?:thanks|thank you) (?:for|to)|part (?:2|two|ii)\b|more (?:at|on|stories)"
    r"|if you (?:liked?|enjoyed?)|\(?/?r/\w+|feedback|criticism|check out|come visit|for more (?:of|stories))|(?:^|\s)/?r/\w+",
    re.I,
)


def story(body):
    """A comment as a response: its Markdown kept, links as their text, the author's notes before and after it gone.

    A note is a first or last paragraph that begins as an author's note does ("Edit:", "Thanks for reading", a subreddit of
    one's own), with the rule that parts it from the story. Entities are decoded once.
    """
    text = html.unescape(body).replace("\u200b", "").replace("\r\n", "\n")
    text = re.sub(r"!?\[([^\]]*)\]\((?:https?:|/)[^)\s]*(?:\s+\"[^\"]*\")?\)", r"\1", text)
    paragraphs = [part.strip("\n") for part in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text) if part.strip()]
    for place in (-1, 0):
        while len(paragraphs) > 1 and (_is_rule(paragraphs[place]) or _is_note(paragraphs[place])):
            paragraphs.pop(place)
    return "\n\n".join(line.rstrip() for line in paragraphs).strip()


def _is_rule(text):
    return bool(re.fullmatch(r"(?:[\\*_\-=~#.]\s*){2,}", text.strip()))


def _is_note(text):
    return len(text) < 400 and bool(NOTE.search(text))


def _cue(text, cues):
    for cue in cues:
        if found := re.search(cue, text, re.I):
            return found.group()
    return ""
