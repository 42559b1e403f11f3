"""The resolved recipe and its first examples, token by token: green is trained on, grey is only read.

python -m lima.train.show --config recipes/quickstart.yaml        (make show-quickstart)
"""

import sys
from itertools import groupby

from lima import conversations, exit_codes, recipe, turns

EXAMPLES = 3


def coloured(tokenizer, row):
    """One example as rich text. Special tokens stand out, so text that imitates them does not."""
    from rich.text import Text

    special = set(tokenizer.all_special_ids)
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    out = Text()
    for (style, is_special), group in groupby(
        tokens, lambda pair: ("bright_black" if pair[1] == turns.IGNORED else "green", pair[0] in special)
    ):
        text = tokenizer.decode([token for token, _ in group])
        text = "".join(char if char.isprintable() or char == "\n" else "·" for char in text)
        out.append(text, f"{style} reverse" if is_special else style)
    return out


def main(argv):
    args = recipe.load(argv)
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{args.config}[/bold], resolved\n")
    console.print(recipe.as_yaml(dict(sorted(args.given.items()))), markup=False)
    tokenizer = turns.load_tokenizer(args.model_name_or_path, recipe.base_command(args.config))
    data = conversations.of_recipe(args)
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
