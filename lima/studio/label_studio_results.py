"""What people chose in Label Studio → rows of judgments; `label_studio.py` wrote the project that they annotated."""

import json
import re
from argparse import Namespace
from collections import Counter
from datetime import datetime, timezone

from lima import UserError
from lima.evaluate import answers, asking, judge, judgments, verdicts

CHOICES = {"A is significantly better": "A", "B is significantly better": "B", "Neither": "tie"}
CONTROL = "choice"  # what results call the question


def import_results(args):
    """Adds the verdicts to judgments/; returns lines to print."""
    key = read_key(args.project)
    found, left = read_results(args.results, key, args.project)
    if not found:
        raise UserError(f"{args.results}: no annotation that was submitted ({left['skipped']} skipped); annotate first")
    owner = {"a": key["a"], "b": key["b"]}
    path, lines = verdicts_path(key), []
    for name, rows in by_judge(found, args.annotator).items():
        new, moved = add(rows, path, Namespace(judge=name, prompts=key["prompts"]), owner)
        counts = Counter(row["verdict"] for row in rows)
        lines.append(f"{name:18} {len(rows):,}: " + ", ".join(f"{counts[one]} {one}" for one in ("a", "b", "tie")))
        if kept := len(rows) - len(new):
            lines.append(f"  not taken: {kept:,} where a later verdict, or one with the sides swapped, stands")
        if moved:
            lines.append(f"  moved to {judgments.former(path)}: {moved:,} on other answers or by another instruction")
    return [*lines, f"skipped {left['skipped']:,}, without annotation {left['open']:,}", f"→ {path}"]


def read_key(project):
    """What key.json says. Raises `UserError` if it is not there or not ours."""
    path = project / "key.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; --project is the folder that export wrote")
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        fine = all(answers.file_name(key[side]) == key[side] for side in "ab") and isinstance(key["prompts"], str)
        fine = fine and all(
            one["order"] in judge.ORDERS and {*map(type, (one["prompt_id"], one["digest"]))} == {str}
            and type(one["sample"]) is int
            for one in key["items"].values()
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise UserError(f"{path}: is not the key of a project, or was changed; export again to another folder")
    return key


def read_results(path, key, project):
    """`([(where, person, row of judgments), …], how many were {"skipped", "open"})` of Label Studio's JSON or JSON_MIN. Raises
    `UserError` for what is neither, or of another project, or without one of the three choices."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); --results is what Label Studio exported") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON; in Label Studio choose Export → JSON") from None
    if not isinstance(tasks, list):
        raise UserError(f"{path}: expected a list of tasks; in Label Studio choose Export → JSON")
    found, left = [], Counter()
    for number, task in enumerate(tasks):
        where = f"{path}, task {number} (from 0)"
        item, annotations = taken_apart(task, where)
        if not isinstance(item, str) or item not in key["items"]:
            raise UserError(f"{where}: item {item!r:.40} is not of {project}; these are the results of another project")
        left["open"] += not annotations
        for one in annotations:
            if one.get("was_cancelled") or one.get("skipped"):
                left["skipped"] += 1
            else:
                found.append((where, person(one.get("completed_by")), row(one, where, item, key)))
    return found, left


def taken_apart(task, where):
    """`(item, annotations)` of a task; JSON_MIN has a row an annotation, which becomes the one of a task."""
    if isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list):
        if all(isinstance(one, dict) and isinstance(one.get("result"), list) for one in task["annotations"]):
            return task["data"].get("item"), task["annotations"]  # drafts and predictions lie beside these
    elif isinstance(task, dict) and "item" in task and "annotation_id" in task:
        given = task.get(CONTROL)
        value = {"choices": [given] if isinstance(given, str) else given}
        result = [] if given is None else [{"from_name": CONTROL, "value": value}]
        one = {**task, "result": result, "completed_by": task.get("annotator")}
        return task["item"], [] if task["annotation_id"] is None else [one]
    raise UserError(f"{where}: is not a task with its annotations; in Label Studio choose Export → JSON")


def row(annotation, where, item, key):
    """An annotation as a row of judgments whose judge is open."""
    item, seconds = key["items"][item], annotation.get("lead_time")
    return {
        "prompt_id": item["prompt_id"],
        "prompts": key["prompts"],
        "sample": item["sample"],
        "a": key["a"],
        "b": key["b"],
        "judge": None,
        "order": item["order"],
        "verdict": verdicts.by_system(slot(annotation, where), item["order"]),
        "raw": "",
        "seconds": round(seconds, 1) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else None,
        "date": utc(annotation.get("updated_at") or annotation.get("created_at")),
        "digest": item["digest"],
    }


def slot(annotation, where):
    """ "A", "B" or "tie". Raises `UserError` for no choice, several, or another than the three."""
    results = [one for one in annotation["result"] if isinstance(one, dict) and one.get("from_name") == CONTROL]
    if not results:
        raise UserError(f"{where}: an annotation without a choice; was it made with config.xml of this project?")
    values = [one.get("value") for one in results]
    for name, found in CHOICES.items():
        if [value.get("choices") if isinstance(value, dict) else None for value in values] == [[name]]:
            return found
    raise UserError(f"{where}: expected one of {', '.join(CHOICES)}; found {json.dumps(values):.80}")


def person(by):
    """Who annotated, from a number, an e-mail address, a name, or an object with them; None if it does not say."""
    if isinstance(by, dict):
        by = by.get("email") or by.get("username") or by.get("id")
    if isinstance(by, str) and not by.strip().isdecimal():
        return by.strip() or None
    return f"user-{by}" if isinstance(by, int | str) else None


def utc(text):
    """A time as Label Studio writes it → as our rows have it; now, if there is none."""
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return asking.now()
    found = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return found.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def by_judge(found, annotator=None):
    """`{"human:NAME": rows}`, the last of each item. Raises `UserError` for a person without a name, two with the same, or
    several where `annotator` names one."""
    people = {person: clean(annotator or person or "") for _, person, _ in found}
    if annotator and len(people) > 1:
        raise UserError(f"--annotator {annotator}: the results are of {len(people)} people; leave it out")
    for where, person, _ in found:
        if not people[person]:
            raise UserError(
                f"{where}: completed_by {person!r:.40} gives no name of letters or digits; give --annotator NAME"
            )
    if twice := [name for name, times in Counter(people.values()).items() if times > 1]:
        raise UserError(f"two annotators would be called {twice[0]}; in the file give one another name (completed_by)")
    rows = {}
    for _, person, row in sorted(found, key=lambda one: one[2]["date"]):
        name = verdicts.HUMAN + people[person]
        rows.setdefault(name, {})[item_of(row)] = {**row, "judge": name}
    return {name: list(rows[name].values()) for name in sorted(rows)}


def item_of(row):
    """(prompt_id, sample) of a row."""
    return row["prompt_id"], row["sample"]


def add(rows, path, args, owner):
    """Writes a person's rows; returns those that were taken, and how many others went to `former/`.

    A later verdict stands, and so does one on the same answers with the sides swapped: a person's verdict on an item is one
    row. Rows on items that `rows` lack stay as they are.
    """
    mine = [one for one in judgments.read(path, **owner) if judgments.subject(one)[:2] == (args.judge, args.prompts)]
    here = {item_of(one): one for one in mine}
    stand = judgments.standing(path, {item_of(one): one["digest"] for one in rows}, args, **owner)
    new = [
        one
        for one in rows
        if (*item_of(one), one["order"][::-1]) not in stand
        and str(here.get(item_of(one), one).get("date") or "") <= one["date"]
    ]
    digests = {item_of(one): one.get("digest") for one in [*mine, *new]}
    return new, judgments.write(path, new, digests, args, **owner)


def clean(name):
    """A person's name as judgments have it: ASCII letters, digits, `.`, `_`, `-`; of an e-mail address the part before the @."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.strip().split("@")[0]).strip("-._")[:40]


def verdicts_path(key):
    """The file of judgments on the two systems."""
    return judgments.FOLDER / f"{key['a']}-vs-{key['b']}.jsonl"
