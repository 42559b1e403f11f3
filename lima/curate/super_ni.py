"""Super-Natural Instructions → candidates (section 2.2 of the paper): generation tasks, one random instance each.

    python -m lima.curate.super_ni --config recipes/data/lima-open.yaml --raw natural-instructions/tasks \\
        --out data/candidates/lima-open/nlp

Reads task files of both schemas: `Definition` a string or a list, `Categories` a path ("Text Modification ->
Paraphrasing") or a name, instances with an id or without.
"""

import json
import random
import sys

from lima import exit_codes
from lima.curate import command

DEFAULTS = {
    "categories": ["Paraphrasing", "Summarization", "Style Transfer"],
    "languages": ["English"],
    "min_response": 20,
    "max_prompt": 6000,
}
WHERE = "https://github.com/allenai/natural-instructions/blob/master/tasks"


def curate(step, paths, settings, tick):
    """One candidate a task that no rule drops; the ledger has a line a task."""
    seen = set()
    for path in paths["raw"]:
        task, rule, detail = _read(path)
        tick(path.stat().st_size)
        category = "" if rule else _category(task)
        if not rule:
            rule, detail = dropped_by(task, settings)
        if not rule and path.stem in seen:
            rule = "repeated"
        id = f"super_ni/{path.stem}"
        if rule:
            step.drop(id, category, rule, detail, "" if task is None else _definition(task))
            continue
        usable = instances(task, settings)
        if not usable:
            step.drop(id, category, "no_instance", f"none of {len(task['Instances'])} fits", _definition(task))
            continue
        seen.add(path.stem)
        chance = random.Random(f"{settings['seed']}/{path.stem}")
        prompt, answers = chance.choice(usable)
        step.keep(candidate(path.stem, task, prompt, chance.choice(answers)), f"1 of {len(usable)} instances")


def dropped_by(task, settings):
    """`(rule, what it found)` of the first rule that drops a task; both are section 2.2's, the lists our reading.

    `not_generation`: its category is not listed in `categories`. `other_language`: it reads or writes a language that is
    not listed in `languages`; a file that names none is taken as English.
    """
    wanted = {name.lower() for name in settings["categories"]}
    if _category(task).lower() not in wanted:
        return "not_generation", _category(task)
    named = [*_strings(task.get("Input_language")), *_strings(task.get("Output_language"))]
    strange = sorted(set(named or ["English"]) - set(settings["languages"]))
    return ("other_language", ", ".join(strange)) if strange else ("", "")


def instances(task, settings):
    """`[(prompt, [response, …]), …]` of the instances that are whole and of the lengths that the recipe allows."""
    found = []
    for instance in task["Instances"]:
        if not isinstance(instance, dict) or not isinstance(instance.get("input"), str):
            continue
        prompt = "\n\n".join(part for part in (_definition(task), instance["input"].strip()) if part)
        answers = [answer.strip() for answer in _strings(instance.get("output"))]
        answers = [answer for answer in answers if len(answer) >= settings["min_response"]]
        if answers and instance["input"].strip() and len(prompt) <= settings["max_prompt"]:
            found.append((prompt, answers))
    return found


def candidate(name, task, prompt, response):
    """The row of candidates.parquet."""
    return {
        "id": f"super_ni/{name}",
        "source": "nlp",
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
        "url": f"{WHERE}/{name}.json",
        "author": ", ".join(_strings(task.get("Contributors"))),
        "license": ", ".join(_strings(task.get("Instance License"))),
        "score": None,
        "group": _category(task),
        "created": "",
        "title": name,
    }


def _read(path):
    """`(task, rule, detail)`; the rule is "" for a task file."""
    try:
        task = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(task, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        return None, "not_json", str(error)[:200]
    if not isinstance(task, dict):
        return None, "not_a_task", f"a {type(task).__name__}"
    for key, there in (
        ("Definition", _definition(task)),
        ("Categories", _strings(task.get("Categories"))),
        ("Instances", isinstance(task.get("Instances"), list)),
    ):
        if not there:
            return None, "not_a_task", f"no {key}"
    return task, "", ""


def _definition(task):
    return " ".join(text.strip() for text in _strings(task.get("Definition"))).strip()


def _category(task):
    """The first category's own name: "Paraphrasing" for "Text Modification -> Paraphrasing"."""
    return _strings(task["Categories"])[0].split("->")[-1].strip()


def _strings(value):
    """A string or a list of strings → the list of those that are not blank."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]


if __name__ == "__main__":
    with exit_codes():
        command.run("super_ni", DEFAULTS, (".json",), curate, __doc__, sys.argv[1:])
