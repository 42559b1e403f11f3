"""Whether answers keep to the structure that a prompt dictates (section 4.3), where code can tell.

    python -m lima.evaluate.constraints --answers runs/7b                        on data/prompts/structure.jsonl
    python -m lima.evaluate.constraints --run runs/7b --epochs 5-10 --out missed.jsonl

A row of prompts may have `constraints`, a list such as [{"kind": "bullets", "count": 3}, {"kind": "words", "at_most": 100}]:

    bullets, numbered, words, paragraphs     count, at_least or at_most; numbered steps run 1, 2, 3 …
    table                                    columns, and rows below the header
    starts_with text · no_word word          letter case counts in the first only
    json                                     the whole answer is an object or a list; keys: exactly these
    title · ends_with_question               no more to say

A constraint in plain words is left to a reader. With --run the figures are kept in runs/NAME/generations/constraints.json.
"""

import json
import re
import sys
import textwrap
from pathlib import Path

from markdown_it import MarkdownIt

from lima import UserError, conversations, exit_codes, runs
from lima.evaluate import intervals, signals
from lima.evaluate.before_after import plain
from lima.evaluate.spans import words

MARKDOWN = MarkdownIt("commonmark").enable("table")
BOLD = re.compile(r"(\*\*|__)(?:(?!\1).)+\1:?")
TITLE = 12  # words of a title that no mark shows to be one, at most

# ---- the kinds: an answer and what its constraint says → (met, why) ---------------------------------------------------


def _counted(found, what, count=None, at_least=None, at_most=None):
    low, high = (at_least, at_most) if count is None else (count, count)
    met = (low is None or found >= low) and (high is None or found <= high)
    wanted = f"exactly {count}" if count is not None else " and ".join(
        f"{name} {value}" for name, value in (("at least", low), ("at most", high)) if value is not None
    )  # fmt: skip
    return met, f"{found} {what if found != 1 else what.removesuffix('s')}, expected {wanted}"


def _words(answer, **wanted):
    return _counted(len(words(answer)), "words", **wanted)


def _bullets(answer, **wanted):
    return _counted(len(_outermost(answer, "-*+")), "bullets", **wanted)


def _numbered(answer, **wanted):
    numbers = [int(item.info) for item in _outermost(answer, ".)")]
    if numbers != list(range(1, len(numbers) + 1)):
        return False, f"numbered {', '.join(map(str, numbers[:12]))}, expected 1, 2, 3 …"
    return _counted(len(numbers), "steps", **wanted)


def _blocks(answer):
    """The tokens of an answer as Markdown, in which models mostly write; • makes a list too."""
    return MARKDOWN.parse(re.sub(r"(?m)^( *)• *", r"\1- ", answer))


def _outermost(answer, marks):
    """The list items with one of these marks that are in no other such item."""
    items = [token for token in _blocks(answer) if token.type == "list_item_open" and token.markup in marks]
    level = min((item.level for item in items), default=0)
    return [item for item in items if item.level == level]


def _paragraphs(answer, **wanted):
    """Their number: blocks of prose, without title, headings, lists, tables, quotations, code and a list's introduction."""
    titled = _title(answer)[0]

    def heads(place, text):
        return "\n" not in text and ((place == 0 and titled) or text.endswith(":") or BOLD.fullmatch(text))

    prose = [not heads(place, text) for place, (kind, text) in enumerate(_top(answer)) if kind == "paragraph_open"]
    return _counted(sum(prose), "paragraphs", **wanted)


def _top(answer):
    """`[(type, text), …]` of the outermost blocks; the text of those that hold none themselves is that of what is in them."""
    tokens = _blocks(answer)
    return [
        (token.type, tokens[place + 1].content if place + 1 < len(tokens) else "")
        for place, token in enumerate(tokens)
        if token.level == 0 and token.nesting >= 0
    ]


def _table(answer, columns=None, rows=None):
    found, part = [], ""
    for token in _blocks(answer):
        part = token.type if token.type in ("thead_open", "tbody_open") else part
        if token.type == "table_open":
            found.append([0, 0])
        elif token.type == "th_open":
            found[-1][0] += 1
        elif token.type == "tr_open" and part == "tbody_open":
            found[-1][1] += 1
    if not found:
        return False, "no Markdown table"
    met = any(columns in (None, wide) and rows in (None, long) for wide, long in found)
    wanted = [f"{value} {name}" for name, value in (("columns", columns), ("rows", rows)) if value is not None]
    return met, f"a table of {found[0][0]} columns and {found[0][1]} rows, expected {' and '.join(wanted)}"


def _starts_with(answer, text):
    begins, size = answer.lstrip(), len(text)
    goes_on = text[-1].isalnum() and begins[size : size + 1].isalnum()  # Dearest is not Dear
    return begins.startswith(text) and not goes_on, f"begins {begins[: size + 10]!r}, expected {text!r}"


def _no_word(answer, word):
    found = len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE))
    return not found, f"{word!r} stands in it {found} {'time' if found == 1 else 'times'}"


def _json(answer, keys=None):
    try:
        value = json.loads(answer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return False, f"not JSON as a whole ({str(error)[:80]})"
    if not isinstance(value, dict | list):
        return False, f"JSON, but {type(value).__name__}, not an object or a list"
    if keys is not None and (not isinstance(value, dict) or sorted(value) != sorted(keys)):
        have = ", ".join(value) if isinstance(value, dict) else "a list"
        return False, f"JSON with {have or 'no keys'}, expected {', '.join(keys)}"
    return True, "JSON as a whole"


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


def _title(answer):
    """A heading, a line in bold, or a short line of its own without a full stop, with more below."""
    (kind, first), *more = _top(answer) or [("", "")]
    line = first.split("\n")[0]
    bare = more and line == first and 0 < len(words(line)) <= TITLE and not line.endswith((".", ",", ":", ";", "!"))
    met = kind == "heading_open" or (kind == "paragraph_open" and bool(bare or BOLD.fullmatch(line.strip())))
    return met, f"first line {answer.strip().split(chr(10))[0][:60]!r}"


def _ends_with_question(answer):
    end = answer.rstrip("\"'”’*_)»` \n")
    return end.endswith("?"), f"ends {end[-40:]!r}"


COUNTS = dict.fromkeys(("count", "at_least", "at_most"), int)
KINDS = {  # how each is checked, what it may say and of what type
    "bullets": (_bullets, COUNTS),
    "numbered": (_numbered, COUNTS),
    "words": (_words, COUNTS),
    "paragraphs": (_paragraphs, COUNTS),
    "table": (_table, {"columns": int, "rows": int}),
    "starts_with": (_starts_with, {"text": str}),
    "no_word": (_no_word, {"word": str}),
    "json": (_json, {"keys": list}),
    "title": (_title, {}),
    "ends_with_question": (_ends_with_question, {}),
}
FREE = ("json", "title", "ends_with_question")  # need nothing beside their kind
TYPES = {int: "a number from 0", str: "text", list: "a list of names"}

# ---- one constraint ----------------------------------------------------------------------------------------------------


def check(constraint, answer):
    """`(met, why)`; met is None for a constraint in plain words. `constraint` is one in which `fault` finds nothing."""
    if isinstance(constraint, str):
        return None, "in plain words, for a reader"
    said = {key: value for key, value in constraint.items() if key != "kind"}
    return KINDS[constraint["kind"]][0](answer, **said)


def fault(constraint):
    """What is wrong with a constraint of a prompt file, in words; None if nothing is."""
    if isinstance(constraint, str):
        return None
    if not isinstance(constraint, dict) or str(constraint.get("kind")) not in KINDS:
        return f"expected text, or an object whose `kind` is one of {', '.join(KINDS)}; found {json.dumps(constraint)}"
    kind = constraint["kind"]
    given = {key: value for key, value in constraint.items() if key != "kind"}
    allowed = KINDS[kind][1]
    if strange := given.keys() - allowed.keys():
        return f"{kind} has no {sorted(strange)[0]!r}; it may have {', '.join(allowed) or 'nothing beside'}"
    for key, value in given.items():
        fits = type(value) is allowed[key] and (value >= 0 if allowed[key] is int else bool(value))
        if not fits or (key == "keys" and not all(isinstance(name, str) for name in value)):
            return f"{kind}: {key} is {json.dumps(value)}, expected {TYPES[allowed[key]]}"
    return None if given or kind in FREE else f"{kind} needs {' or '.join(allowed)}"


# ---- answers -----------------------------------------------------------------------------------------------------------


def read_prompts(name):
    """The rows of a prompt set (a name for data/prompts/NAME.jsonl, or a file) that have `constraints`.

    Raises `UserError` for a file without any, and for a constraint that has a fault, naming its row.
    """
    path = Path(name) if Path(name).suffix else Path("data/prompts") / f"{name}.jsonl"
    rows = [row for row in conversations.load_prompts(str(path)) if row.get("constraints")]
    for row in rows:
        given = row["constraints"]
        faults = [fault(one) for one in given] if isinstance(given, list) else ["`constraints` is not a list"]
        if found := next(filter(None, faults), None):
            raise UserError(f"{path}: row {row['row']} (from 0), {row['id']}: {found}")
    if not rows:
        raise UserError(f"{path}: no prompt in it has `constraints`; data/prompts/structure.jsonl shows how they look")
    return rows


def measures(rows, prompts):
    """The figures of answers to prompts with constraints, matched by the prompts' text:

    answers; unanswered prompts; checked, met and share of constraints; kept: (share, low, high) of answers that meet all, 95 %
    by prompt; kinds: `{kind: [met, checked]}`; open: constraints left to a reader; missed: `{prompt_id, sample, kind, why}`.
    """
    wanted = {_same(prompt["messages"][-1]["content"]): prompt for prompt in prompts}
    asked = [(wanted[_same(row["prompt"])], row) for row in rows if _same(row["prompt"]) in wanted]
    kept, kinds, missed, left = {}, {}, [], 0
    for prompt, row in asked:
        each = [(one, *check(one, row["response"])) for one in prompt["constraints"]]
        done = [(one["kind"], met, why) for one, met, why in each if met is not None]
        left += len(each) - len(done)
        for kind, met, why in done:
            kinds.setdefault(kind, []).append(met)
            if not met:
                missed.append({"prompt_id": prompt["id"], "sample": row.get("sample", 0), "kind": kind, "why": why})
        if done:
            kept.setdefault(prompt["id"], []).append(all(met for _, met, _ in done))
    all_met = [met for each in kinds.values() for met in each]
    return {
        "answers": len(asked),
        "unanswered": len(prompts) - len({prompt["id"] for prompt, _ in asked}),
        "checked": len(all_met),
        "met": sum(all_met),
        "share": signals.share(all_met),
        "kept": intervals.share(list(kept.values())) if kept else None,
        "kinds": {kind: [sum(each), len(each)] for kind, each in sorted(kinds.items())},
        "open": left,
        "missed": missed,
    }


def _same(text):
    return " ".join(text.split())


# ---- the command line --------------------------------------------------------------------------------------------------


def main(argv):
    parser = signals.arguments(__doc__)
    parser.set_defaults(prompts="structure")
    parser.add_argument("--out", help="also write what was missed, a JSON line each")
    args = parser.parse_args(argv)
    if args.out and Path(args.out).is_dir():
        raise UserError(f"--out: {args.out} is a folder; name a file, such as {args.out.rstrip('/')}/missed.jsonl")
    prompts = read_prompts(args.prompts)
    found = [(name, one, measures(rows, prompts)) for name, one, rows in signals.read(args)]
    for name, _, figures in found:
        if not figures["answers"]:
            raise UserError(f"{name}: none of its answers is to a prompt of {args.prompts!r}")
    wrote = signals.keep(args, "constraints.json", [(one, figures) for _, one, figures in found])
    if args.out:
        runs.write_jsonl(args.out, [{"system": name, **one} for name, _, figures in found for one in figures["missed"]])
    _print(found)
    print(*(f"wrote  {path}" for path in (wrote, args.out) if path), sep="\n")


def _print(found):
    lines = []
    for name, _, one in found:
        share, low, high = one["kept"] or (None,) * 3
        within = signals.NONE if share is None else f"{100 * share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"
        met = f"{one['met']} of {one['checked']}"
        lines.append((name, one["answers"], met, signals.percent(one["share"]), within, one["unanswered"], one["open"]))
    signals.show(["", "answers", "met", "share", "all met (95 %)", "no answer", "open"], lines)
    if any(one["open"] for _, _, one in found):
        print("open: constraints in plain words, for a reader")
    for name, _, one in found:
        kinds = " · ".join(f"{kind} {met}/{of}" for kind, (met, of) in one["kinds"].items())
        print(textwrap.fill(f"{plain(name)}: {kinds}", 79, subsequent_indent="  "))
    for one in found[0][2]["missed"] if len(found) == 1 else ():
        print(textwrap.shorten(plain(f"missed  {one['prompt_id']} {one['kind']}: {one['why']}"), 80, placeholder=" …"))


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
