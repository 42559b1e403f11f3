"""dataset_card.md: what a mix is, from its own numbers. `make push-data` completes it with statistics and pushes it."""

import statistics

import yaml

from lima.curate.attribution import licence, text

CHARACTERS = 3.9  # a LLaMA token, on average over GAIR/lima's 1,030 rows; 3.3 to 4.1 by source
PAPER = {  # Table 1: (split, source) → mean tokens of a prompt, of a response
    ("train", "stackexchange_stem"): (117, 523),
    ("train", "stackexchange_other"): (119, 530),
    ("train", "wikihow"): (12, 1811),
    ("train", "writingprompts"): (34, 274),
    ("train", "nlp"): (236, 92),
    ("train", "authors"): (40, 334),
    ("dev", "authors"): (36, None),
    ("test", "askreddit"): (30, None),
    ("test", "authors"): (31, None),
}
TERMS = {  # prefix of a source → what its terms ask
    "stackexchange": "Stack Exchange's posts are CC BY-SA: ATTRIBUTION.md names author, address and version of each. Dumps "
    "since July 2024 ask whoever downloads them not to train language models on them; earlier ones and mirrors do not.",
    "wikihow": "wikiHow's articles are CC BY-NC-SA 3.0: not for commercial use.",
    "writingprompts": "Posts on Reddit belong to who wrote them; Reddit's terms grant no licence to pass them on.",
    "askreddit": "Posts on Reddit belong to who wrote them; Reddit's terms grant no licence to pass them on.",
}


def page(notes, rows, counts):
    """The card as Markdown with the Hub's metadata on top.

    `notes`: what the mix notes in done.json; `rows`: split → published rows; `counts`: the mix's ledger by rule.
    """
    splits = [split for split in ("train", "dev", "test") if rows[split]]
    configs = [
        {"config_name": "default", "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in splits if s == "train"]}
    ]
    configs += [
        {"config_name": "prompts", "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in splits if s != "train"]}
    ]
    meta = {
        "pretty_name": notes["name"],
        "task_categories": ["text-generation"],
        "tags": ["instruction-tuning", "lima"],
        "configs": [config for config in configs if config["data_files"]],
    }
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---",
        f"# {text(notes['name'])}",
        "Curated from raw sources after [LIMA: Less Is More for Alignment](https://arxiv.org/abs/2305.11206), section 2, by a "
        "recipe that explains every drop. Not LIMA's own dataset, which is "
        "[GAIR/lima](https://huggingface.co/datasets/GAIR/lima).",
        *_shortfall(notes["quotas"]),
        "## Sources",
        _table(notes["quotas"], rows),
        f"Tokens are estimated at {CHARACTERS} characters each; the paper's are means of LLaMA tokens (Table 1).",
        "<!-- statistics -->",
        *_left_out(counts),
        *_decisions(notes["decisions"]),
        *_limits(rows),
    ]
    return "\n\n".join(parts) + "\n"


MEANS = {
    "beyond_quota": "good, ranked after the quota was full (review.jsonl)",
    "not_drawn": "not needed, and not looked at",
    "near_duplicate": "a near-duplicate of another row or of a dev or test prompt",
    "contaminated": "shares 13 words in a row (or as the recipe says) with an evaluation prompt",
    "language": "does not look like English",
    "secrets": "looks as if it held a key or password",
    "personal": "looks as if it held personal data",
    "no_response": "a prompt without a response",
    "rejected": "rejected by a person",
}


def _left_out(counts):
    lines = [f"- {MEANS.get(rule, rule)}: {count:,}" for rule, count in sorted(counts.items()) if rule]
    return ["## What was left out", f"Of {sum(counts.values()):,} candidates:", "\n".join(lines)] if lines else []


def _shortfall(quotas):
    short = [quota for quota in quotas if quota["chosen"] < quota["rows"]]
    if not short:
        return []
    said = [f"- {q['split']}, {text(q['source'])}: {q['chosen']:,} of {q['rows']:,}" for q in short]
    return ["## Short of its quotas", "\n".join(said)]


def _table(quotas, rows):
    lines = [
        "| split | source | rows | asked | prompt: here, paper | response: here, paper |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for quota in quotas:
        here = [r for r in rows[quota["split"]] if r["source"] == quota["source"]]
        here = [r for r in here if quota["group"] in (None, r["group"])]
        paper = PAPER.get((quota["split"], quota["source"]), (None, None))
        stated = [f"{mean:,}" if mean else "–" for mean in paper]
        cells = [f"{mean_tokens(here, role)}, {mean}" for role, mean in zip(("user", "assistant"), stated, strict=True)]
        name = text(quota["source"]) + (f" / {text(quota['group'])}" if quota["group"] else "")
        lines.append(f"| {quota['split']} | {name} | {len(here):,} | {quota['rows']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tokens(row, role):
    """Estimated tokens of a row's first turn of this role; None where it has none."""
    turns = [turn["content"] for turn in row["messages"] if turn["role"] == role]
    return len(turns[0]) / CHARACTERS if turns else None


def mean_tokens(rows, role):
    found = [count for row in rows if (count := tokens(row, role)) is not None]
    return f"{statistics.mean(found):,.0f}" if found else "–"


def _decisions(counted):
    said = ", ".join(f"{count} {name}" for name, count in counted.items())
    return [f"People's decisions: {said}. Edited rows keep their original beside."] if said else []


def _limits(rows):
    everything = [row for chosen in rows.values() for row in chosen]
    asks = dict.fromkeys(
        said for prefix, said in TERMS.items() if any(row["source"].startswith(prefix) for row in everything)
    )
    licences = sorted({licence(row) for row in everything} - {""})
    return [
        "## Licences and limits",
        f"Licences that rows state: {', '.join(map(text, licences)) or 'none'}. A row's own is in its `license`.",
        "\n".join(f"- {said}" for said in asks) or "",
        "English only, as a share of common words judges it. Secrets and personal data were looked for by their form alone: "
        "names and stories that give somebody away are not found. Nobody has checked what the answers claim.",
    ]
