"""Conversation → tokens: BOS, then each utterance and EOT, alike for training, generation and the chat template."""

from collections import Counter

import pytest
import sentencepiece
import tokenizers
from conftest import write_llama
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from lima import UserError, conversations, turns
from lima.train import base

IGNORED = -100
TALK = [
    "What is a fjord?",
    "A fjord is a drowned valley.\n\nIce carved it; the sea came later.",
    "café, 日本 and 😀: which has four letters?",
    "The first.\n1. c\n2. a\n3. f\n4. é",
]
# Runs of spaces are left out: transformers' LLaMA tokenizer and sentencepiece differ on them.
TEXTS = [
    *TALK,
    "x",
    "\nstarts on a new line",
    "def f(a):\n\treturn a ** 2 # twice",
    "ends on a new line\n",
]
IMITATIONS = ["<|eot|>", "<|pad|>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<0x0A>"]
BOTH = pytest.mark.parametrize("name", ["smollm2", "llama"])


def talk(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def row(number, *texts, source="s"):
    return {"id": str(number), "source": source, "messages": talk(*texts), "row": number}


@pytest.fixture(scope="module")
def llama_base(llama_tokenizer, tmp_path_factory):
    """A tiny Llama with LLaMA's own tokenizer, prepared and on disk: what `make base-7b` leaves."""
    folder = tmp_path_factory.mktemp("llama")
    source = write_llama(folder / "source", llama_tokenizer, layers=1, width=16)
    base.prepare(source, folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def prepared(request):
    """A prepared base's tokenizer as a run loads it, by name."""
    loaded = {}

    def load(name):
        if name not in loaded:
            folder = request.getfixturevalue({"smollm2": "smollm2", "llama": "llama_base"}[name])
            loaded[name] = AutoTokenizer.from_pretrained(folder)
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def sentences(shared):
    return sentencepiece.SentencePieceProcessor(model_file=str(shared / "tokenizer/llama_tokenizer.model"))


@pytest.fixture(scope="module")
def plain_smollm2(smollm2):
    plain = tokenizers.Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    plain.encode_special_tokens = True
    return plain


@pytest.fixture(scope="module")
def pieces(request):
    """Text → ids without transformers: sentencepiece for LLaMA, plain `tokenizers` for SmolLM2."""

    def encode(name, text):
        if name == "llama":
            return request.getfixturevalue("sentences").encode(text)
        return request.getfixturevalue("plain_smollm2").encode(text, add_special_tokens=False).ids

    return encode


@pytest.fixture(scope="module")
def lima(shared):
    return conversations.load(str(shared / "lima/train.jsonl")).rows


def special_ids(tokenizer):
    return {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def template_ids_and_mask(tokenizer, messages, **arguments):
    out = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **arguments
    )
    return out["input_ids"], [bool(flag) for flag in out["assistant_masks"]]


# ---- layout ----------------------------------------------------------------------------------------------------------


@BOTH
def test_the_layout_is_bos_then_each_utterance_and_eot(name, prepared, pieces):
    tokenizer = prepared(name)
    bos, eot = (tokenizer.convert_tokens_to_ids(token) for token in (tokenizer.bos_token, "<|eot|>"))
    one, two, three, four = (pieces(name, text) for text in TALK)
    ids, labels = turns.encode(tokenizer, talk(*TALK))
    assert ids == [bos, *one, eot, *two, eot, *three, eot, *four, eot]
    off = [IGNORED]
    assert labels == off * (len(one) + 2) + [*two, eot] + off * (len(three) + 1) + [*four, eot]


@BOTH
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_utterance_is_the_same_tokens_wherever_it_stands(name, text, place, prepared, pieces):
    tokenizer = prepared(name)
    texts = ["a", "b", "c"]
    texts[place] = text
    ids = turns.encode(tokenizer, talk(*texts))[0]
    ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
    starts = [1, ends[0] + 1, ends[1] + 1]
    assert ids[starts[place] : ends[place]] == pieces(name, text)


def test_llama_pieces_are_those_of_sentencepiece_for_real_text(lima, prepared, sentences):
    tokenizer, compared = prepared("llama"), 0
    for conversation in lima[::4]:
        texts = [message["content"] for message in conversation["messages"]]
        if any("  " in text or text[0] == " " for text in texts):
            continue
        expected = [1]
        for text in texts:
            expected += [*sentences.encode(text), 32000]
        assert turns.encode(tokenizer, conversation["messages"])[0] == expected, conversation["row"]
        compared += 1
    assert compared > 100


def test_a_base_without_bos_starts_with_the_first_utterance(smollm2, pieces):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.bos_token = None
    ids, labels = turns.encode(tokenizer, talk("Hi", "Hello"))
    eot = tokenizer.eos_token_id
    assert ids == [*pieces("smollm2", "Hi"), eot, *pieces("smollm2", "Hello"), eot]
    assert template_ids_and_mask(tokenizer, talk("Hi", "Hello")) == (ids, [label != IGNORED for label in labels])


@BOTH
def test_a_prompt_for_generation_is_how_the_training_example_begins(name, prepared):
    tokenizer = prepared(name)
    whole = turns.encode(tokenizer, talk(*TALK))[0]
    prompt = turns.encode(tokenizer, talk(*TALK[:3]))[0]
    assert prompt == whole[: len(prompt)]
    assert prompt[-1] == tokenizer.eos_token_id
    assert template_ids_and_mask(tokenizer, talk(*TALK[:3]), add_generation_prompt=True)[0] == prompt


# ---- special tokens --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("around", ["{}", "Write {} to stop.", "a{}b", "{}{}\n"])
@pytest.mark.parametrize("imitation", IMITATIONS)
def test_what_looks_like_a_special_token_is_plain_text(name, role, around, imitation, prepared, pieces):
    tokenizer = prepared(name)
    texts = ["Hi", "Hello"]
    texts[role] = text = around.replace("{}", imitation)
    ids, labels = turns.encode(tokenizer, talk(*texts))
    bos, eot = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert [token for token in ids if token in special_ids(tokenizer)] == [bos, eot, eot]
    assert [token for token in labels if token in special_ids(tokenizer)] == [eot]
    assert ids[1:-1] == [*pieces(name, texts[0]), eot, *pieces(name, texts[1])]
    inside = ids[1 : ids.index(eot)] if role == 0 else ids[ids.index(eot) + 1 : -1]
    assert tokenizer.decode(inside, skip_special_tokens=True).strip(" ") == text


@BOTH
def test_there_is_exactly_one_bos_and_one_eot_for_each_turn(name, prepared):
    tokenizer = prepared(name)
    texts = [f"{tokenizer.bos_token} {text} {tokenizer.eos_token}" for text in TALK]
    ids = turns.encode(tokenizer, talk(*texts))[0]
    assert (ids.count(tokenizer.bos_token_id), ids.index(tokenizer.bos_token_id)) == (1, 0)
    assert ids.count(tokenizer.eos_token_id) == len(texts)
    assert ids[-1] == tokenizer.eos_token_id


def test_a_tokenizer_that_adds_its_own_bos_adds_no_second_one(smollm2, pieces):
    """As LLaMA's does on the Hub."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    bos, eot = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)]
    )
    assert tokenizer.encode("Hi")[0] == bos
    ids, labels = turns.encode(tokenizer, talk("Hi", "Hello"))
    assert ids == [bos, *pieces("smollm2", "Hi"), eot, *pieces("smollm2", "Hello"), eot]
    assert template_ids_and_mask(tokenizer, talk("Hi", "Hello")) == (ids, [label != IGNORED for label in labels])


@BOTH
def test_encoding_leaves_the_tokenizer_as_it_was(name, prepared):
    """Reading specials as text is a switch inside the tokenizer: it must not stay on."""
    tokenizer = prepared(name)
    turns.encode(tokenizer, talk("<|eot|>"))
    assert tokenizer.encode("<|eot|>", add_special_tokens=False) == [tokenizer.eos_token_id]


# ---- the chat template -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_template_gives_the_same_tokens_and_the_same_loss(name, count, prepared):
    tokenizer = prepared(name)
    messages = talk(*TALK[:count])
    ids, labels = turns.encode(tokenizer, messages)
    assert template_ids_and_mask(tokenizer, messages) == (ids, [label != IGNORED for label in labels])


@BOTH
@pytest.mark.parametrize(
    "text", ["  indented", "\n\nlate", "two  spaces   three", "trailing  \n ", "{{ bos_token }} {% if %}"]
)
def test_the_template_keeps_white_space_and_braces(name, text, prepared):
    tokenizer = prepared(name)
    messages = talk(text, text)
    ids, labels = turns.encode(tokenizer, messages)
    assert template_ids_and_mask(tokenizer, messages) == (ids, [label != IGNORED for label in labels])


@BOTH
def test_the_template_agrees_on_every_real_conversation(name, prepared, lima):
    tokenizer, differ = prepared(name), []
    for conversation in lima:
        ids, labels = turns.encode(tokenizer, conversation["messages"])
        expected = (ids, [label != IGNORED for label in labels])
        if template_ids_and_mask(tokenizer, conversation["messages"]) != expected:
            differ.append(conversation["row"])
    assert len(lima) == 1030
    assert not differ, f"{len(differ)} rows differ"


@pytest.mark.parametrize(
    ("roles", "named"),
    [
        (["system", "user", "assistant"], "turn 0 is system"),
        (["user", "assistant", "system"], "turn 2 is system"),
        (["assistant", "user"], "turn 0 is assistant"),
        (["user", "user"], "turn 1 is user"),
        (["user", "assistant", "assistant"], "turn 2 is assistant"),
        (["user", "tool"], "turn 1 is tool"),
    ],
)
def test_the_template_refuses_a_wrong_turn_by_number(roles, named, smollm2_tokenizer):
    messages = [{"role": role, "content": "Hi"} for role in roles]
    with pytest.raises(TemplateError, match="user first, then strictly alternating, with no system turn") as caught:
        smollm2_tokenizer.apply_chat_template(messages, tokenize=True)
    assert named in str(caught.value)


# ---- the loss --------------------------------------------------------------------------------------------------------


@BOTH
def test_loss_on_all_is_every_token_but_bos(name, prepared):
    ids, labels = turns.encode(prepared(name), talk(*TALK), loss_on="all")
    assert labels == [IGNORED, *ids[1:]]


@pytest.mark.parametrize(("loss_on", "spoken"), [("responses", (1, 3)), ("all", (0, 1, 2, 3))])
def test_supervised_counts_the_tokens_in_the_loss(loss_on, spoken, prepared, pieces):
    encoded = turns.encode_all(prepared("smollm2"), [row(0, *TALK), row(1, *TALK[:2])], 2048, loss_on)
    first, second = (sum(len(pieces("smollm2", TALK[i])) + 1 for i in spoken if i < n) for n in (4, 2))
    assert encoded.supervised == first + second


def test_rows_stand_in_order_with_their_lengths_and_sources(prepared, pieces):
    rows = [row(3, "a", "b", source="x"), row(5, *TALK, source="y"), row(9, "c", "d", source="y")]
    encoded = turns.encode_all(prepared("smollm2"), rows, 2048)
    lengths = [1 + sum(len(pieces("smollm2", m["content"])) + 1 for m in r["messages"]) for r in rows]
    assert encoded.lengths == lengths
    assert [len(r["labels"]) for r in encoded.rows] == lengths
    assert encoded.kept == rows
    assert list(encoded.sources.items()) == [("y", 2), ("x", 1)]
    assert (encoded.trimmed, encoded.dropped) == ([], [])


def test_a_conversation_without_a_last_response_is_refused_by_row(prepared):
    with pytest.raises(UserError, match=r"row 7: .*EOT .*never learn to stop"):
        turns.encode_all(prepared("smollm2"), [row(6, "a", "b"), row(7, "a", "b", "c")], 2048)


# ---- too long --------------------------------------------------------------------------------------------------------


def lengths_of(tokenizer, *rows):
    return [len(turns.encode(tokenizer, r["messages"])[0]) for r in rows]


SHORT, LONG, OTHER = row(2, "a", "b"), row(4, "Count.", "one two three four five six seven"), row(6, "c", "d")


def test_trim_keeps_the_beginning_and_counts(prepared):
    tokenizer = prepared("smollm2")
    limit = lengths_of(tokenizer, LONG)[0] - 3
    whole_ids, whole_labels = turns.encode(tokenizer, LONG["messages"])
    encoded = turns.encode_all(tokenizer, [SHORT, LONG, OTHER], limit, over_length="trim")
    assert (encoded.trimmed, encoded.dropped) == ([4], [])
    assert encoded.rows[1] == {"input_ids": whole_ids[:limit], "labels": whole_labels[:limit]}
    assert encoded.kept == [SHORT, LONG, OTHER]


@BOTH
def test_only_a_trimmed_row_ends_without_eot(name, prepared):
    tokenizer = prepared(name)
    limit = lengths_of(tokenizer, LONG)[0] - 1
    encoded = turns.encode_all(tokenizer, [SHORT, LONG, OTHER], limit)
    ends = [(r["input_ids"][-1], r["labels"][-1]) for r in encoded.rows]
    eot = tokenizer.eos_token_id
    assert [end == (eot, eot) for end in ends] == [True, False, True]


@pytest.mark.parametrize("over_length", ["trim", "drop", "error"])
def test_a_row_of_exactly_max_length_is_left_alone(over_length, prepared):
    tokenizer = prepared("smollm2")
    encoded = turns.encode_all(tokenizer, [LONG], lengths_of(tokenizer, LONG)[0], over_length=over_length)
    assert encoded.rows[0]["labels"][-1] == tokenizer.eos_token_id
    assert (encoded.trimmed, encoded.dropped) == ([], [])


def test_drop_leaves_the_row_out_and_counts(prepared):
    tokenizer = prepared("smollm2")
    limit = lengths_of(tokenizer, LONG)[0] - 1
    encoded = turns.encode_all(tokenizer, [SHORT, LONG, OTHER], limit, over_length="drop")
    assert (encoded.trimmed, encoded.dropped) == ([], [4])
    assert encoded.kept == [SHORT, OTHER]
    assert [r["input_ids"] for r in encoded.rows] == [turns.encode(tokenizer, r["messages"])[0] for r in (SHORT, OTHER)]


def test_error_names_the_row_its_length_and_the_way_out(prepared):
    tokenizer = prepared("smollm2")
    length = lengths_of(tokenizer, LONG)[0]
    with pytest.raises(UserError) as caught:
        turns.encode_all(tokenizer, [SHORT, LONG], length - 1, over_length="error")
    for words in ("row 4", f"{length} tokens", f"max_length {length - 1}", "over_length", "trim", "drop"):
        assert words in str(caught.value)


def test_nothing_left_after_dropping_is_an_error(prepared):
    with pytest.raises(UserError, match="longer than max_length 3"):
        turns.encode_all(prepared("smollm2"), [SHORT, LONG], 3, over_length="drop")


def test_a_prompt_that_fills_max_length_is_an_error(prepared, pieces):
    tokenizer = prepared("smollm2")
    filled = len(pieces("smollm2", "Count.")) + 2  # with BOS and EOT
    with pytest.raises(UserError) as caught:
        turns.encode_all(tokenizer, [SHORT, LONG], filled)
    for words in ("row 4", "prompt alone fills", f"max_length {filled}", "over_length: drop"):
        assert words in str(caught.value)
    one_more = turns.encode_all(tokenizer, [LONG], filled + 1)
    assert one_more.supervised == 1


def test_a_prompt_that_fills_max_length_is_trained_on_with_loss_on_all(prepared, pieces):
    filled = len(pieces("smollm2", "Count.")) + 2
    encoded = turns.encode_all(prepared("smollm2"), [LONG], filled, loss_on="all")
    assert encoded.supervised == filled - 1


# ---- the real data ---------------------------------------------------------------------------------------------------


def test_1030_rows_of_lima_go_in_and_out_and_69_are_trimmed(prepared, lima, sentences):
    lengths = [1 + sum(len(sentences.encode(m["content"])) + 1 for m in r["messages"]) for r in lima]
    encoded = turns.encode_all(prepared("llama"), lima, 2048)
    assert len(encoded.rows) == len(encoded.kept) == 1030
    assert encoded.trimmed == [r["row"] for r, length in zip(lima, lengths, strict=True) if length > 2048]
    assert (len(encoded.trimmed), encoded.dropped) == (69, [])
    ended = [r["row"] for r, out in zip(lima, encoded.rows, strict=True) if out["labels"][-1] == 32000]
    assert len(ended) == 1030 - 69 and not set(ended) & set(encoded.trimmed)
    assert max(encoded.lengths) == 2048


def test_lima_dropped_instead_of_trimmed_leaves_961(prepared, lima):
    encoded = turns.encode_all(prepared("llama"), lima, 2048, over_length="drop")
    assert (len(encoded.rows), len(encoded.dropped), encoded.trimmed) == (961, 69, [])
    assert {r["labels"][-1] for r in encoded.rows} == {32000}
    assert encoded.sources == dict(Counter(r["source"] for r in lima if r["row"] not in encoded.dropped))


# ---- check_base ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_prepared_base_passes(name, prepared):
    turns.check_base(prepared(name), "bases/x", "make base-x")


def spoil_template(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("eos_token", "bos_token")


def no_template(tokenizer):
    tokenizer.chat_template = None


def no_pad(tokenizer):
    tokenizer.pad_token = None


def pad_is_eot(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token


@pytest.mark.parametrize("spoil", [spoil_template, no_template, no_pad, pad_is_eot])
def test_an_unprepared_base_is_refused_with_the_target_that_mends_it(spoil, smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    spoil(tokenizer)
    with pytest.raises(UserError) as caught:
        turns.check_base(tokenizer, "bases/mine", "make base-quickstart")
    for words in ("bases/mine", "not prepared", "`make base-quickstart`"):
        assert words in str(caught.value)


def test_an_untouched_llama_is_refused(llama_tokenizer):
    with pytest.raises(UserError, match=r"llama-7b: not prepared .*make base-7b"):
        turns.check_base(llama_tokenizer, "llama-7b", "make base-7b")
