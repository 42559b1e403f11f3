"""The same prompts before and after training, side by side: what a run changed.

python -m lima.evaluate.before_after --run runs/quickstart --limit 24 --max_new_tokens 256
"""

import sys
from pathlib import Path

import yaml

from lima import UserError, exit_codes, runs
from lima.evaluate.generate import arguments, generate_file, load_prompts, settings

SHOWN = 260  # characters of an answer in the terminal; the files hold all of it


def main(argv):
    args = arguments(__doc__).parse_args(argv)
    run = Path(args.run)
    name, prompts = load_prompts(args.prompts)
    try:
        base = yaml.safe_load((run / "recipe.yaml").read_text())["recipe"]["model_name_or_path"]
    except OSError:
        raise UserError(f"{run}: no run there (no recipe.yaml); train one with `make sft-NAME`") from None
    checkpoint = runs.newest_checkpoint(run)
    before, after = (
        generate_file(
            folder,
            prompts,
            run / "generations" / place / f"{name}.before_after.jsonl",
            settings(folder, args.max_new_tokens, args.seed),
            limit=args.limit,
            overwrite=True,
            label=label,
        )
        for folder, place, label in ((base, "base", "before"), (checkpoint, checkpoint.name, "after"))
    )
    held = [row["eval_loss"] for row in runs.read_jsonl(run / "metrics.jsonl") if "eval_loss" in row]
    runs.write_text(run / "before_after.md", as_markdown(run.name, before, after, held))
    show(before, after)
    print(summary(before, after, held))
    print(
        f"\nwrote   {checkpoint}  the model\n        {run}/before_after.md  every answer in full"
        f"\n        {run}/metrics.jsonl, {run}/wandb/  the curves"
        f"\nnext    make chat RUN={run}     talk to it\n        make show-{run.name}     see what it was trained on, token by token"
        + (
            "\n        make sft-135m          the paper's own protocol on this base, or sft-7b on GPUs"
            if run.name == "quickstart"
            else ""
        )
    )


def summary(before, after, held):
    """Two lines: share ended by EOT and held-out loss, before → after."""

    def share(rows):
        ended = sum(row["finish_reason"] == "eot" for row in rows)
        return f"{ended} of {len(rows)} ({100 * ended / len(rows):.0f} %)"

    longest = before[0]["sampling"]["max_new_tokens"]
    lines = [f"ended by EOT within {longest} tokens   {share(before)} → {share(after)}"]
    if len(held) > 1:
        lines.append(f"held-out loss                     {held[0]:.3f} → {held[-1]:.3f}")
    return "\n".join(lines)


def show(before, after):
    """A table in a wide terminal, one answer under the other in a narrow one. Models' text is shown as text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.width < 80:
        for old, new in zip(before, after, strict=True):
            console.print(
                Text(plain(old["prompt"]), "bold"),
                Text("before · ", "dim") + cell(old),
                Text("after · ", "dim") + cell(new),
                "",
                sep="\n",
            )
        return
    table = Table("prompt", "before", "after", show_lines=True, width=min(console.width, 150))
    for column, ratio in zip(table.columns, (2, 3, 3), strict=True):
        column.ratio = ratio
    for old, new in zip(before, after, strict=True):
        table.add_row(Text(plain(old["prompt"])), cell(old), cell(new))
    console.print(table)


def cell(row):
    from rich.text import Text

    text = plain(row["response"])
    text = text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …"
    style = "green" if row["finish_reason"] == "eot" else "red"
    return Text(text + " ") + Text(f"[{row['finish_reason']}, {row['tokens']}]", style)


def plain(text):
    """A model's text as one paragraph without control characters: it cannot move the cursor or set a title."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def as_markdown(name, before, after, held):
    """All answers in full, as fenced text so that nothing a model wrote is rendered."""
    parts = [f"# {name}: before and after\n", summary(before, after, held).replace("\n", "  \n") + "\n"]
    for old, new in zip(before, after, strict=True):
        parts.append(f"## {plain(old['prompt'])}\n")
        for when, row in (("before", old), ("after", new)):
            body = "\n".join("    " + line for line in row["response"].split("\n"))
            parts.append(f"{when} ({row['finish_reason']}, {row['tokens']} tokens)\n\n{body}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
