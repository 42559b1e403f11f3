"""What the annotators of a room have found so far: shares with intervals, and how far they agree with each other and with
judges (section 4.1). Only for who has finished."""

from lima.evaluate import agreement, intervals, judge, rate, verdicts

PEOPLE = "people"


def results(room):
    """`{"tables": [{title, shares, rows: [{who, n, shares}]}], "agreement": [{pair, items, share, paper}]}`; a share is
    `[share, low, high]`, each 0 to 1, 95 % by prompt."""
    files = sorted({item.journal.path for item in room.items if item.journal.path.exists()})
    return {
        "tables": [table(room, owner, prompts) for owner, prompts in room.subjects()],
        "agreement": agreed(files) if room.kind == "pair" else [],
    }


def table(room, owner, prompts):
    """Shares of one pair, or of one system's answers: of all people together, of each, of each judge."""
    journal = next(item.journal for item in room.items if item.owner == owner)
    by = {}
    for row in journal.look():
        said = row.get("digest")
        old = row["judge"].startswith(verdicts.HUMAN) and said != room.digests.get(room.place_of(row), said)
        if row["prompts"] == prompts and not old:  # a person's, on answers as they were
            by.setdefault(row["judge"], []).append(row)
    people = {name: rows for name, rows in by.items() if name.startswith(verdicts.HUMAN)}
    found = {PEOPLE: _together(room.kind, people.values())} if len(people) > 1 else {}
    found |= {name.removeprefix(verdicts.HUMAN): _values(room.kind, rows) for name, rows in people.items()}
    found |= {name: _values(room.kind, rows) for name, rows in by.items() if name not in people}
    talk = "dialogue" in prompts
    names = intervals.OUTCOMES if room.kind == "pair" else rate.LEVELS
    rows = [
        {"who": who, "n": len(groups), "shares": intervals.shares(list(groups.values()), names=names, pooled=talk)}
        for who, groups in ((who, verdicts.clusters(groups, prompts)) for who, groups in found.items())
        if groups
    ]
    return {"title": f"{' against '.join(owner.values())}, {prompts}", "shares": names, "rows": rows}


def _together(kind, annotators):
    """What people found, by prompt: a prompt that several labelled holds what each of them said."""
    found = {}
    for rows in annotators:
        for prompt, said in _values(kind, rows).items():
            found.setdefault(prompt, []).extend(said)
    return found


def _values(kind, rows):
    """What one annotator found, by prompt."""
    found = {}
    if kind == "pair":
        for (prompt, _), verdict in verdicts.outcomes(rows).items():
            found.setdefault(prompt, []).append(judge.OUTCOMES[verdict])
    else:
        for row in rows:
            if row["level"] is not None:
                found.setdefault(row["prompt_id"], []).append(row["level"])
    return found


def agreed(files):
    """Rows of `agreement.table`, with the paper's figure beside."""
    annotations, groups = agreement.load(files) if files else ({}, {})
    if len(annotations) < 2:
        return []
    return [
        {"pair": row["pair"], "items": row["items"], "share": row["agreement"], "paper": agreement.paper(row["pair"])}
        for row in agreement.table(annotations, groups, agreement.prompt_of)
        if row["items"]
    ]
