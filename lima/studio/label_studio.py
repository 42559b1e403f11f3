"""Two systems' answers compared blind in Label Studio, for teams that annotate
there rather than in this repo's own page.

    python -m lima.studio.label_studio export --a runs/7b --b runs/mine \\
        --prompts test --out label-studio/7b-vs-mine --annotators anna ben
    python -m lima.studio.label_studio import --results export.json \\
        --project label-studio/7b-vs-mine

export  writes a project: config.xml (the paper's three choices, section 4.1),
        tasks.json, README.md (the steps), and key.json, which says whose answer
        is whose and is for no annotator. Pairs of the same text are ties that
        nobody is asked about. With --annotators each gets a file of tasks: the
        first --shared items are everybody's, the rest is divided.
import  reads Label Studio's export (JSON or JSON_MIN) and adds the verdicts to
        judgments/A-vs-B.jsonl, with the judge human:NAME. Skipped items and
        drafts do not count. Imported twice, nothing is doubled.
"""

import argparse
import hashlib
import json
import re
import shlex
import sys
import xml.etree.ElementTree as ET
from argparse import Namespace
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.evaluate import answers, asking, judge, verdicts
from lima.studio.label_studio_results import CHOICES, CONTROL, clean, import_results, read_key, verdicts_path

SHARED = 50  # as in the paper, section 4.1
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
STYLE = ".htx-text { white-space: pre-wrap; }"  # else white space collapses


def main(argv):
    args = parser().parse_args(argv)
    print(*args.act(args), sep="\n")


def parser():
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    acts = found.add_subparsers(required=True, metavar="export | import")
    out = acts.add_parser("export", help="write a project", description="Writes a project for Label Studio.")
    spec = "a run, a checkpoint, our .jsonl of answers, or AlpacaEval's .json"
    out.add_argument("--a", required=True, metavar="SPEC", help=spec)
    out.add_argument("--b", required=True, metavar="SPEC", help="the other system")
    out.add_argument("--prompts", default="dev", help="the prompt set that was answered [%(default)s]")
    out.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the project's folder, new")
    out.add_argument("--annotators", nargs="+", metavar="NAME", help="a file of tasks for each of them")
    out.add_argument("--shared", type=int, metavar="N", help=f"items that all of them get [{SHARED}]")
    out.add_argument("--seed", type=int, default=0, help="of the order and the sides [%(default)s]")
    out.add_argument("--partial", action="store_true", help="the prompts that both have answered")
    out.set_defaults(act=export)
    back = acts.add_parser("import", help="read verdicts back", description="Adds results to judgments/A-vs-B.jsonl.")
    back.add_argument("--project", required=True, type=Path, metavar="FOLDER", help="what export wrote")
    back.add_argument("--results", required=True, type=Path, metavar="FILE", help="Label Studio's export, JSON")
    back.add_argument("--annotator", metavar="NAME", help="whose verdicts these are [as the file says]")
    back.set_defaults(act=import_results)
    return found


# ---- export ------------------------------------------------------------------------------------------------------------


def export(args):
    """Writes the project; returns lines to print."""
    people = annotators(args)
    prompts = asking.checked(Namespace(judge="people", prompts=args.prompts))
    instruction = asking.read_instruction(asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    config = labelling_config(instruction)
    a, b = answers.load(args.a, args.prompts), answers.load(args.b, args.prompts)
    answers.apart(a, b)
    asking.prompt_set(prompts, [row["prompt"] for row in [*a.rows, *b.rows]])
    found = answers.pair(a, b, args.partial)
    pairs = [pair for pair in found if not judge.same(pair)]
    if not pairs:
        raise UserError(f"{a.path} and {b.path}: all answers are the same texts; there is nothing to ask")

    key = {
        "a": a.name,
        "b": b.name,
        "prompts": prompts.prompts,
        "instruction": verdicts.digest(instruction),
        "seed": args.seed,
        "annotators": people,
        "shared": args.shared if people else None,
    }
    tasks, key["items"] = items(pairs, instruction, key)
    parts = divided(tasks, people, args.shared)
    texts = {"key.json": key, **parts}
    files = {name: json.dumps(value, ensure_ascii=False, indent=1) + "\n" for name, value in texts.items()}
    files |= {"config.xml": config, "README.md": readme(args.out, parts, verdicts_path(key))}
    new = write_project(args.out, key, files)
    return [
        f"a        {a.name}: {a.path}\nb        {b.name}: {b.path}",
        f"items    {len(pairs):,}; {len(found) - len(pairs):,} pairs of the same text, which are ties, are left out",
        *(f"{name:18} {len(part):,} tasks" for name, part in parts.items()),
        f"→ {args.out}{'' if new else ' (as it was)'}; README.md there says the steps, key.json is for no annotator",
    ]


def annotators(args):
    """The names of `--annotators` as judgments will have them, [] if none are given; settles `--shared`."""
    people = [clean(name) for name in args.annotators or []]
    if not all(people) or len({name.casefold() for name in people}) < len(people):
        raise UserError(f"--annotators {' '.join(args.annotators)}: expected a name of its own, with letters, for each")
    if args.shared is not None and (args.shared < 0 or not people):
        raise UserError("--shared: expected a number from 0, and --annotators, among whom the other items are divided")
    args.shared = SHARED if args.shared is None else args.shared
    return people


def items(pairs, instruction, key):
    """`(tasks, {id: {prompt_id, sample, order, digest}})` in an order, and with sides, that hang on the seed and the item."""

    def draw(what, pair):
        text = json.dumps([key["seed"], what, pair[0], pair[1]])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])

    tasks, rows = [], {}
    for pair in sorted(pairs, key=lambda pair: draw("place", pair)):
        prompt_id, sample, prompt, *both = pair
        order, digest = judge.ORDERS[draw("side", pair) % 2], verdicts.digest(*both, instruction)
        whole = [*key.values(), prompt_id, sample, digest]
        name = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:12]
        first, second = both if order == "ab" else both[::-1]
        texts = {"prompt": prompt, "answer_a": first, "answer_b": second}
        tasks.append({"data": {"item": name, **{what: shown(text) for what, text in texts.items()}}})
        rows[name] = {"prompt_id": prompt_id, "sample": sample, "order": order, "digest": digest}
    return tasks, rows


def shown(text):
    """A text as its reader gets it: one kind of line end, no NUL (PostgreSQL takes none), and words in place of nothing."""
    return text.replace("\r\n", "\n").replace("\0", "\ufffd") if text.strip() else asking.NO_ANSWER


def divided(tasks, people, shared):
    """`{file: tasks}`: one file, or for each of `people` the first `shared` tasks and a part of the others."""
    if not people:
        return {"tasks.json": tasks}
    rest = tasks[shared:]
    return {f"tasks-{name}.json": tasks[:shared] + rest[n :: len(people)] for n, name in enumerate(people)}


def labelling_config(instruction):
    """Label Studio's config: the instruction's part for people, prompt, both answers side by side, and the three choices.

    All that models wrote is shown by `Text`, which takes no markup. Raises `UserError` where the instruction has no such part.
    """
    words = asking.for_people(instruction)
    if any(f"{{{name}}}" in words for name in judge.HOLDERS):
        raise UserError(
            f"{asking.INSTRUCTIONS / 'pair.txt'}: people get what stands above a line of dashes; put one in"
        )
    view = ET.Element("View")
    ET.SubElement(view, "Style").text = STYLE
    for line in re.split(r"\n\s*\n|\n(?=\w+: )", words):
        text = NOT_XML.sub("", " ".join(line.split()))
        ET.SubElement(view, "Header", value=text.replace("$", "$\u2060"), size="5")  # else $word is a variable
    block(view, "prompt", "Prompt")
    both = ET.SubElement(view, "View", style="display: flex; gap: 2em; align-items: flex-start")
    for side in "AB":
        half = ET.SubElement(both, "View", style="flex: 1 1 0; min-width: 0")
        block(half, f"answer_{side.lower()}", f"Answer {side}")
    asked = {"required": "true", "requiredMessage": "Please choose one of the three.", "showInline": "true"}
    choices = ET.SubElement(view, "Choices", name=CONTROL, toName="prompt", choice="single", **asked)
    for choice in CHOICES:
        ET.SubElement(choices, "Choice", value=choice)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def block(view, name, title):
    """A title and a text of the task."""
    ET.SubElement(view, "Header", value=title, size="4")
    ET.SubElement(view, "Text", name=name, value=f"${name}", valueType="text", selectionEnabled="false")


def readme(out, parts, path):
    """The steps, for whoever sets the project up."""
    several = " Each annotator gets a project of their own." if len(parts) > 1 else ""
    return f"""# A comparison for Label Studio

`key.json` says whose answer is whose, and this file names the systems: give annotators neither.

1. Create a project in Label Studio. Its title is seen by all; let it name no system.{several}
2. Labeling Setup → Custom template → Code: paste `config.xml`.
3. Import {" or ".join(f"`{name}`" for name in parts)}. People in one project may see each other's choices.
4. When they are done: Export → JSON. Then, where `judgments/` is:

       python -m lima.studio.label_studio import --project {shlex.quote(str(out))} --results FILE [--annotator NAME]

   Without `--annotator` people are called by the part of their address before the @, or `user-N` where the export has
   only their number.
5. `python -m lima.evaluate.agreement {path}` says how far they agree.
"""


def write_project(out, key, files):
    """Writes what is not there yet, the key first; returns whether anything was. Raises `UserError` where `out` holds
    something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if (out / "key.json").exists():
        if read_key(out) != key:
            raise UserError(f"--out {out}: holds a project of other answers, flags or instruction; name another folder")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: holds other files and no key.json; name a new folder")
    missing = {name: text for name, text in files.items() if not (out / name).exists()}
    for name, text in missing.items():
        runs.write_text(out / name, text)
    return bool(missing)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
