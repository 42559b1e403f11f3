"""The resolved recipe and its first examples, token by token: green is trained on, grey is only read.

python -m lima.train.show --config recipes/quickstart.yaml        (make show-quickstart)
"""

import sys

from lima import conversations, exit_codes, recipe, turns

EXAMPLES = 3


def coloured(tokenizer, row):
    """One example as rich text. Special tokens are shown by name, so text that imitates them is not."""
    from rich.text import Text

    out = Text()
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        special = token in tokenizer.all_special_ids
        piece = (
            tokenizer.decode([token])
            if special
            else tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(token)])
        )
        piece = "".join(char if char.isprintable() or char == "\n" else "·" for char in piece)
        style = "green" if label != turns.IGNORED else "bright_black"
        out.append(piece, f"{style} reverse" if special else style)
    return out


def main(argv):
    args = recipe.load(argv)
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{args.config}[/bold], resolved\n")
    console.print(recipe.as_yaml(dict(sorted(args.given.items()))), markup=False)
    tokenizer = turns.load_tokenizer(args.model_name_or_path, recipe.base_command(args.config))
    data = conversations.load(args.dataset, args.dataset_split, args.dataset_revision, args.exclude_sources)
    encoded = turns.encode_all(tokenizer, data.rows, args.max_length, args.loss_on, args.over_length)
    multi = [i for i, row in enumerate(encoded.kept) if len(row["messages"]) > 2][:1]
    chosen = list(dict.fromkeys([*range(min(EXAMPLES - len(multi), len(encoded.rows))), *multi]))
    for i in chosen:
        row, source = encoded.rows[i], encoded.kept[i]
        count = sum(label != turns.IGNORED for label in row["labels"])
        console.rule(f"{source['id']} · {len(row['input_ids'])} tokens, {count} trained on", style="bright_black")
        console.print(coloured(tokenizer, row))
    console.rule(style="bright_black")
    console.print(
        "[green]green[/green] is in the loss, [bright_black]grey[/bright_black] is read only, "
        "[reverse]reversed[/reverse] is a special token"
    )


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
