"""Reddit → candidates (section 2.1 of the paper), from Pushshift's dumps, plain or .zst.

    python -m lima.curate.reddit --config recipes/data/lima-open.yaml --raw RS_2017-09.zst --comments RC_2017-09.zst \\
        --out data/candidates/lima-open/reddit

r/WritingPrompts: the prompt and its top response, to train on (`source` writingprompts). r/AskReddit: titles alone, as
test prompts (`source` askreddit). The most upvoted come first.
"""

import heapq
import json
import re
import sys
from datetime import datetime, timezone

from lima import UserError, exit_codes
from lima.curate import command, reddit_rules
from lima.curate.rules import first
from lima.curate.settings import check_keys

SUFFIXES = (".zst", ".ndjson", ".jsonl", ".json")
CHUNK, PACKED_CHUNK = 2**16, 2**12  # bytes; what the second unpacks to is at most 128 MB
LONGEST_LINE = 2**24
BOTS = ["AutoModerator", "WritingPromptsBot", "RemindMeBot", "WritingPromptsRobot", "imguralbumbot", "sneakpeekbot"]
META = ["off.?topic", "meta", "moderator", "mod ?post", "announcement", "contest", "prompt me", "established universe"]
DEFAULTS = {
    "writingprompts": {
        "subreddit": "WritingPrompts",
        "most": 3000,
        "min_score": 100,
        "tags": ["WP", "SP"],
        "tag_needed": True,
        "meta_flairs": META,
        "bots": BOTS,
        "min_prompt": 20,
        "max_prompt": 300,
        "response": {
            "min_score": 10,
            "min_characters": 300,
            "max_characters": 3000,
            "bots": BOTS,
            "comment_cues": [r"\breddit\b", r"(?:^|\s)/?[ru]/\w+", r"https?://", r"\bthis prompt\b", r"\bOP\b"],
        },
    },
    "askreddit": {
        "subreddit": "AskReddit",
        "most": 1000,
        "min_score": 100,
        "tags": ["serious"],
        "meta_flairs": ["mod ?post", "meta", "megathread", "breaking"],
        "bots": BOTS,
        "min_prompt": 15,
        "max_prompt": 300,
        "cues": [r"\breddit", r"\byours?\b", r"\byou(?:'|’)(?:ve|d|re)\b", r"\byou (?:had|ever|were|personally)\b",
                 r"\b(?:have|did|were|are|was|had) you\b", r"\b(?:of|on|to|with|about) you\b",
                 r"\banyone else\b"],
    },
}  # fmt: skip
NEEDED = {"id": str, "subreddit": str, "title": str, "score": int, "author": str}
NEEDED_OF_COMMENT = {"id": str, "link_id": str, "parent_id": str, "body": str, "score": int, "author": str}


def curate(step, paths, settings, tick):
    """One candidate a chosen submission, most upvoted first; what is held is those `most` and one response each."""
    check(settings, DEFAULTS, "reddit")
    sources = {settings[name]["subreddit"].lower(): name for name in ("writingprompts", "askreddit")}
    chosen = choose(step, paths["raw"], settings, sources, tick)
    writing = {"t3_" + post["id"]: post for post in chosen["writingprompts"]}
    responses = top_responses(step, paths["comments"], writing, settings["writingprompts"]["response"], tick)
    for name in ("writingprompts", "askreddit"):
        for post in sorted(chosen[name], key=lambda post: (-post["score"], post["id"])):
            response = responses.get("t3_" + post["id"])
            if name == "writingprompts" and response is None:
                step.drop(_name(post), post["subreddit"], "no_response", f"{post['score']} points", post["title"])
            else:
                step.keep(candidate(name, post, response), f"response: {response['score']} points" if response else "")


def check(given, defaults, where):
    """Raises `UserError` for a key, a type or a pattern in the recipe's section that no rule can use."""
    for name, default in defaults.items():
        value, place = given[name], f"{where}.{name}"
        if type(value) is not type(default):
            raise UserError(f"{place}: expected {type(default).__name__}, such as {default!r}; found {value!r}")
        if isinstance(default, dict):
            check_keys(value, list(default), f"{place}: key")
            check(value, default, place)
        elif isinstance(default, list):
            for pattern in value:
                try:
                    re.compile(pattern)
                except (re.error, TypeError) as error:
                    raise UserError(f"{place}: {pattern!r} is not a pattern ({error})") from None


def choose(step, files, settings, sources, tick):
    """`{source: [submission, …]}`: those that no rule drops, the `most` upvoted of each subreddit."""
    heaps, seen = {name: [] for name in sources.values()}, set()
    rules = {"writingprompts": reddit_rules.WRITING, "askreddit": reddit_rules.ASK}
    for file in files:
        for where, post, trouble in rows(file, tick):
            group, name = str(post.get("subreddit") or ""), None
            rule, detail = trouble or _lacks(post, NEEDED)
            if not rule:
                name = sources.get(group.lower())
                rule, detail = first(rules[name], post, settings[name]) if name else ("other_subreddit", "")
            if not rule and post["id"] in seen:
                rule = "repeated"
            if rule:
                id = _name(post) if isinstance(post.get("id"), str) else f"reddit/{where}"
                step.drop(_text(id), _text(group), rule, _text(detail), "" if name is None else _text(post["title"]))
                continue
            seen.add(post["id"])
            slim = {key: post.get(key) for key in ("id", "subreddit", "title", "author", "score", "created_utc")}
            heapq.heappush(heaps[name], (post["score"], post["id"], slim))
            if len(heaps[name]) > settings[name]["most"]:
                _, _, least = heapq.heappop(heaps[name])
                step.drop(_name(least), least["subreddit"], "outvoted", f"{least['score']} points", least["title"])
    return {name: [post for *_, post in heap] for name, heap in heaps.items()}


def top_responses(step, files, chosen, settings, tick):
    """Submission's name → the comment with the most points among those that answer it and that no rule drops.

    Comments on other submissions are only counted, in the step's notes.
    """
    best, elsewhere = {}, 0
    for file in files:
        for where, comment, trouble in rows(file, tick):
            rule, detail = trouble or _lacks(comment, NEEDED_OF_COMMENT)
            post = chosen.get(comment.get("link_id")) if not rule else None
            if not rule and post is None:
                elsewhere += 1
                continue
            if not rule:
                rule, detail = _unfit(comment, best.get(comment["link_id"]), settings)
            if not rule:
                comment = {key: comment[key] for key in NEEDED_OF_COMMENT}
                rivals = filter(None, [comment, best.get(comment["link_id"])])
                better, *worse = sorted(rivals, key=lambda one: (-one["score"], one["id"]))
                best[comment["link_id"]] = better
                if not worse:
                    continue
                comment, rule, detail = worse[0], "outvoted", f"{worse[0]['score']} points"
            id = comment["id"] if isinstance(comment.get("id"), str) else where
            body = comment["body"] if isinstance(comment.get("body"), str) else ""
            group = post["subreddit"] if post else str(comment.get("subreddit") or "")
            step.drop(_text(f"comment/{id}"), _text(group), f"comment_{rule}", _text(detail), _text(body))
    step.notes["comments on other submissions"] = elsewhere
    return best


def _unfit(comment, former, settings):
    if comment["parent_id"] != comment["link_id"]:
        return "reply", "not an answer to the prompt itself"
    if former is not None and former["id"] == comment["id"]:
        return "repeated", ""
    return first(reddit_rules.COMMENT, comment, settings)


def candidate(source, post, response):
    """The row of candidates.parquet; the author is the response's, or the question's. Reddit's posts have no licence."""
    messages = [{"role": "user", "content": reddit_rules.prompt(post["title"])}]
    url = f"https://www.reddit.com/r/{post['subreddit']}/comments/{post['id']}/"
    if response:
        messages.append({"role": "assistant", "content": reddit_rules.story(response["body"])})
        url += f"_/{response['id']}/"
    return {
        "id": f"{source}/{post['id']}",
        "source": source,
        "messages": messages,
        "url": url,
        "author": (response or post)["author"],
        "license": "",
        "score": post["score"],
        "group": post["subreddit"],
        "created": _date(post["created_utc"]),
        "title": post["title"],
    }


def rows(path, tick):
    """`(where, object, trouble)` a line; the trouble is a rule and what it found, or None.

    Raises `UserError` for an empty file and for a .zst file that ends in the middle.
    """
    number = 0
    for number, line in enumerate(_lines(path, tick), 1):
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.strip():
                yield where, {}, ("not_json", f"{where}: {error}"[:200])
            continue
        if isinstance(row, dict):
            yield where, row, None
        else:
            yield where, {}, ("not_json", f"{where}: a {type(row).__name__}, not an object")
    if not number:
        raise UserError(f"{path}: nothing in it; expected a JSON object a line")


def _lines(path, tick):
    """The lines of a file, plain or .zst, in memory one at a time."""
    rest = b""
    for chunk in _chunks(path, tick):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{path}: a line of more than {LONGEST_LINE >> 20} MB; expected a JSON object a line")
    if rest:
        yield rest


def _chunks(path, tick):
    import zstandard

    packed = path.suffix == ".zst"
    frames = zstandard.ZstdDecompressor(max_window_size=2**31)  # Pushshift's dumps need a window of 2 GB
    frame = None
    with open(path, "rb") as file:
        while chunk := file.read(PACKED_CHUNK if packed else CHUNK):
            tick(len(chunk))
            while packed and chunk:
                frame = frame or frames.decompressobj()
                try:
                    text = frame.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise UserError(f"{path}: not zstd, or broken, before byte {file.tell()} ({error})") from None
                yield text
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if chunk:
                yield chunk
        if frame is not None:
            raise UserError(f"{path}: ends in the middle, after {file.tell()} bytes; fetch it again")


def _lacks(row, needed):
    for name, kind in needed.items():
        value = row.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value == "":
            return "missing_field", name
        if kind is str and value != _text(value):
            return "not_text", name  # half of a surrogate pair
        if kind is int and abs(value) >= 2**63:
            return "missing_field", f"{name} {value:.0e}"
    return "", ""


def _text(value):
    return value.encode(errors="replace").decode()


def _name(post):
    return f"reddit/{post['id']}"


def _date(created):
    try:
        return datetime.fromtimestamp(int(float(created)), timezone.utc).date().isoformat()
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


if __name__ == "__main__":
    with exit_codes():
        command.run("reddit", DEFAULTS, SUFFIXES, curate, __doc__, sys.argv[1:], more=["--comments"])
