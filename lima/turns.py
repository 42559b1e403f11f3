"""Conversations → tokens, for training and for generation alike (section 3: a special end-of-turn token, EOT, after
every utterance of both speakers; it ends generation like EOS but has no meaning from pretraining; no role markers)."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lima import UserError, hub, runs

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
IGNORED = -100


@dataclass
class Encoded:
    """`rows`: `{input_ids, labels}` in the conversations' order, with what was trimmed or dropped on the way."""

    rows: list = field(default_factory=list)
    kept: list = field(default_factory=list)  # the conversations that `rows` come from
    trimmed: list = field(default_factory=list)  # row numbers
    dropped: list = field(default_factory=list)

    @property
    def lengths(self):
        return [len(row["input_ids"]) for row in self.rows]

    @property
    def sources(self):
        """Rows by source, the most common first."""
        return dict(Counter(row["source"] for row in self.kept).most_common())

    @property
    def supervised(self):
        """Tokens in the loss, after the shift by one."""
        return sum(label != IGNORED for row in self.rows for label in row["labels"][1:])


def encode(tokenizer, messages, loss_on="responses"):
    """BOS if the base has one, then each utterance and EOT (the tokenizer's `eos_token`).

    Returns `(input_ids, labels)`, equally long; labels are -100 outside the loss. What looks like a special token inside
    an utterance is read as plain text, so nobody ends a turn by writing it. With messages that end on a user turn this
    is the prompt of a generation.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids, labels = list(bos), [IGNORED] * len(bos)
    for message in messages:
        turn = tokenizer.encode(message["content"], add_special_tokens=False, split_special_tokens=True)
        turn.append(tokenizer.eos_token_id)
        ids += turn
        labels += turn if loss_on == "all" or message["role"] == "assistant" else [IGNORED] * len(turn)
    return ids, labels


def encode_all(tokenizer, conversations, max_length, loss_on="responses", over_length="trim"):
    """Encodes checked conversations; those beyond `max_length` tokens are trimmed at the end, dropped, or an error.

    Raises `UserError` when a row would carry no loss, or would not end on EOT although it was not trimmed.
    """
    out = Encoded()
    for row in conversations:
        ids, labels = encode(tokenizer, row["messages"], loss_on)
        if labels[-1] != tokenizer.eos_token_id:
            raise UserError(
                f"row {row['row']}: its last token in the loss is not EOT ({tokenizer.eos_token}); the model "
                "would never learn to stop"
            )
        if len(ids) > max_length:
            if over_length == "error":
                raise UserError(
                    f"row {row['row']}: {len(ids)} tokens, more than max_length {max_length}; set over_length "
                    "to trim or drop, or raise max_length"
                )
            if over_length == "drop":
                out.dropped.append(row["row"])
                continue
            out.trimmed.append(row["row"])
            ids, labels = ids[:max_length], labels[:max_length]
        if all(label == IGNORED for label in labels[1:]):
            raise UserError(
                f"row {row['row']}: its prompt alone fills max_length {max_length}, so no token of it would be "
                "trained on; set over_length: drop, or raise max_length"
            )
        out.rows.append({"input_ids": ids, "labels": labels})
        out.kept.append(row)
    if not out.rows:
        raise UserError(f"every conversation is longer than max_length {max_length}; raise it")
    return out


def filler(tokenizer):
    """A row that carries no loss, for a rank that has no example of a step: it still takes part in every collective."""
    return {"input_ids": [tokenizer.eos_token_id] * 2, "labels": [IGNORED] * 2}


def load_tokenizer(folder, command="make base-NAME"):
    """The tokenizer of a prepared base or a checkpoint.

    Raises `UserError`, naming the `command` that prepares the base, unless it has our template, a pad of its own and EOT
    as its stop.
    """
    from transformers import AutoTokenizer

    absent = UserError(f"{folder}: no base there; prepare it with `{command}`")
    if not Path(folder).is_dir() and not hub.is_name(str(folder)):
        raise absent
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        raise absent from None
    check_base(tokenizer, folder, command)
    return tokenizer


def mend_saved_tokenizer(folder):
    """Has a tokenizer that transformers saved loaded as it was saved, by transformers 4 too, and padded for generation."""
    path = Path(folder) / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["tokenizer_class"] = "PreTrainedTokenizerFast"  # LlamaTokenizer would rebuild its pre-tokenizer
    saved["padding_side"] = "left"
    runs.write_text(path, json.dumps(saved, indent=2))


def check_base(tokenizer, name, command):
    """Raises `UserError` unless `tokenizer` is a prepared base's: our template, an own pad, EOT as its stop."""
    own_pad = tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    if tokenizer.chat_template != TEMPLATE.read_text(encoding="utf-8") or not own_pad:
        raise UserError(
            f"{name}: not prepared for LIMA (its tokenizer has no EOT of its own, pad and turn template); run `{command}`"
        )
