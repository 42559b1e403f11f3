"""What `make show-NAME` colours."""

from lima import turns
from lima.train import show

TALK = [
    {"role": "user", "content": "What is 10⁸ in words? <|eot|>"},
    {"role": "assistant", "content": "One hundred million, 東京 🙂.\x1b[2J"},
]


def test_every_character_is_shown_and_coloured_by_what_is_trained_on(smollm2_tokenizer):
    ids, labels = turns.encode(smollm2_tokenizer, TALK)
    text = show.coloured(smollm2_tokenizer, {"input_ids": ids, "labels": labels})
    asked, answered = TALK[0]["content"], TALK[1]["content"].replace("\x1b", "·")
    assert text.plain == f"<|endoftext|>{asked}<|eot|>{answered}<|eot|>"
    shown = [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]
    assert shown == [
        ("<|endoftext|>", "bright_black reverse"),
        (asked, "bright_black"),  # an imitated <|eot|> is plain text
        ("<|eot|>", "bright_black reverse"),
        (answered, "green"),
        ("<|eot|>", "green reverse"),
    ]
