"""The paper's decoding against a loop written here; answers side by side, whatever a model writes."""

import json

import pytest
import torch
from rich.cells import cell_len

from lima import UserError, conversations, turns
from lima.evaluate import before_after, generate

QUESTION = [{"role": "user", "content": "Why does bread rise?"}]


@pytest.fixture(scope="module")
def model(tiny_base):
    loaded, tokenizer = generate.load_model(tiny_base)
    return loaded.float(), tokenizer


def by_hand(model, tokenizer, messages, steps, seed, penalised_from):
    """Nucleus 0.9, temperature 0.7, penalty 1.2 on the tokens from `penalised_from` on, one token at a time."""
    ids = turns.encode(tokenizer, messages)[0]
    start = len(ids)
    torch.manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].float()
        for token in set(ids[start if penalised_from == "answer" else 0 :]):
            logits[token] = logits[token] / 1.2 if logits[token] > 0 else logits[token] * 1.2
        probabilities = (logits / 0.7).softmax(0)
        values, order = probabilities.sort(descending=False)
        probabilities[order[values.cumsum(0) <= 1 - 0.9]] = 0
        ids.append(torch.multinomial(probabilities / probabilities.sum(), 1).item())
        if ids[-1] in model.generation_config.eos_token_id:
            break
    return ids[start:]


def peaked(model, factor=12.0):
    """A random model is flat; sharper logits make the penalty and the nucleus matter."""
    model.model.norm.weight.data.fill_(factor)
    return model


def test_decoding_is_the_papers_with_the_penalty_on_generated_tokens_only(model):
    model, tokenizer = model
    head = model.get_output_embeddings().weight.data
    before = head.clone()
    peaked(model)
    prompt = turns.encode(tokenizer, QUESTION)[0]
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
    head[prompt[:-1]] += 15 * hidden / hidden.dot(hidden)  # leans to the words it has read
    said = [generate.generate(model, tokenizer, [QUESTION], 24, seed)[0] for seed in range(4)]
    ours = [by_hand(model, tokenizer, QUESTION, 24, seed, "answer") for seed in range(4)]
    theirs = [by_hand(model, tokenizer, QUESTION, 24, seed, "prompt") for seed in range(4)]
    stops = model.generation_config.eos_token_id
    texts = [tokenizer.decode([t for t in ids if t not in stops]) for ids in ours]
    assert [text for text, _, _ in said] == texts
    assert ours != theirs  # transformers' own penalty would have said something else
    head.copy_(before)


def test_eot_ends_an_answer_and_is_not_part_of_it(model):
    model, tokenizer = model
    head = model.get_output_embeddings().weight.data
    before = head.clone()
    peaked(model)
    try:
        head[tokenizer.eos_token_id] = 0
        answers = generate.generate(model, tokenizer, [QUESTION], 6, 0)
        assert answers[0][1:] == ("length", 6)
        with torch.no_grad():
            ids = torch.tensor([turns.encode(tokenizer, QUESTION)[0]])
            hidden = model.model(ids).last_hidden_state[0, -1]
        head[tokenizer.eos_token_id] = hidden
        assert generate.generate(model, tokenizer, [QUESTION], 6, 0) == [("", "eot", 0)]
    finally:
        head.copy_(before)


def test_a_batch_of_unequal_prompts_is_padded_on_the_left(model):
    """In a batch each answer starts from its own prompt: the same first-token distribution as alone."""
    model, tokenizer = model
    long = [{"role": "user", "content": "Bread rises in the oven, and I would like to know why. " * 5}]
    ids = [{"input_ids": turns.encode(tokenizer, messages)[0]} for messages in (QUESTION, long)]
    batch = tokenizer.pad(ids, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        together = model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[:, -1]
        alone = torch.cat([model(torch.tensor([row["input_ids"]])).logits[:, -1] for row in ids])
    assert torch.allclose(together, alone, atol=1e-3)
    assert len(generate.generate(model, tokenizer, [QUESTION, long], 3, 0)) == 2


def test_answers_are_written_once_and_kept(tiny_base, tmp_path):
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")[:3]
    out = tmp_path / "dev.jsonl"
    rows = generate.generate_file(tiny_base, prompts, out, max_new_tokens=4)
    assert [row["prompt_id"] for row in rows] == [prompt["id"] for prompt in prompts]
    assert {row["finish_reason"] for row in rows} <= {"eot", "eos", "length"}
    stamp = out.stat().st_mtime_ns
    assert generate.generate_file(tiny_base, prompts, out, max_new_tokens=4) == rows
    assert out.stat().st_mtime_ns == stamp
    assert len(generate.generate_file(tiny_base, prompts[:2], out, max_new_tokens=4)) == 2


def test_an_unprepared_model_is_refused(tiny_base):
    with pytest.raises(UserError, match="not prepared for LIMA"):
        generate.load_model(tiny_base.parent / "source")


HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]not markup[/bold] <script>\u202eright to left " + "x" * 500


def row(text, reason="eot"):
    return {"prompt_id": "1", "prompt": HOSTILE, "response": text, "finish_reason": reason, "tokens": 3,
            "sampling": {"max_new_tokens": 256}}  # fmt: skip


@pytest.mark.parametrize("width", [40, 79, 80, 200])
def test_what_a_model_wrote_is_shown_as_text(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    before_after.show([row(HOSTILE, "length")], [row("fine")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "[bold]" in "".join(out.split("\n")).replace(" ", "") or width < 80
    assert all(cell_len(line) <= width for line in out.splitlines())


def test_the_summary_counts_eot_only():
    rows = [row("a", "eot"), row("b", "length"), row("c", "eos"), row("d", "eot")]
    said = before_after.summary([row("a", "length")] * 4, rows, [3.5, 2.25])
    assert "0 of 4 (0 %) → 2 of 4 (50 %)" in said and "3.500 → 2.250" in said


def test_the_markdown_renders_nothing_that_a_model_wrote():
    text = before_after.as_markdown("r", [row("# not a heading\n```\n<img src=x>")], [row("ok")], [])
    lines = [line for line in text.splitlines() if "heading" in line or "<img" in line]
    assert lines and all(line.startswith("    ") for line in lines)


def test_before_and_after_of_a_run_that_is_not_there():
    with pytest.raises(UserError, match="no run there"):
        before_after.main(["--run", "runs/none"])


def test_rows_are_json_lines(tiny_base, tmp_path):
    out = tmp_path / "a.jsonl"
    generate.generate_file(tiny_base, conversations.load_prompts("data/prompts/test.jsonl")[:1], out, max_new_tokens=2)
    (line,) = out.read_text().splitlines()
    assert set(json.loads(line)) == {"prompt_id", "prompt", "response", "finish_reason", "tokens", "sampling", "sample"}
