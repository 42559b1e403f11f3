"""Checkpoint + prompts → answers, with the paper's decoding (section 4.1): nucleus p 0.9, temperature 0.7, repetition
penalty 1.2 on the tokens generated so far, stop at EOT.

    python -m lima.evaluate.generate --run runs/quickstart --prompts data/prompts/dev.jsonl
"""

import argparse
import sys
from pathlib import Path

from lima import UserError, conversations, exit_codes, runs, turns

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}


def load_model(folder):
    """`(model, tokenizer)` from a prepared base or a checkpoint; bfloat16, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = runs.newest_checkpoint(folder)
    tokenizer = turns.load_tokenizer(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: not a model that transformers can load ({' '.join(str(error).split())[:200]})"
        ) from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def generate(model, tokenizer, conversations, max_new_tokens=2048, seed=0, tick=None, streamer=None):
    """Answers to conversations that end on a user turn, as one batch: `[(text, finish_reason, tokens), …]`.

    finish_reason: `eot`, `eos` (the base's own end of text) or `length`. The penalty counts generated tokens only, as
    the paper's does: transformers' default also counts the prompt, where EOT stands, and so pushes the model from
    stopping. `tick()` is called after every token of the batch.
    """
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList
    from transformers.generation import RepetitionPenaltyLogitsProcessor

    prompts = [{"input_ids": turns.encode(tokenizer, messages)[0]} for messages in conversations]
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(model.device)
    width = batch["input_ids"].shape[1]
    penalty = RepetitionPenaltyLogitsProcessor(SAMPLING["repetition_penalty"], prompt_ignore_length=width)

    def count(input_ids, scores, **kwargs):
        if tick:
            tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    torch.manual_seed(seed)
    with torch.inference_mode():
        out = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=SAMPLING["temperature"],
            top_p=SAMPLING["top_p"],
            top_k=0,
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
            logits_processor=LogitsProcessorList([penalty]),
            stopping_criteria=StoppingCriteriaList([count]),
        )
    stops = model.generation_config.eos_token_id
    return [_answer(tokenizer, ids, stops if isinstance(stops, list) else [stops]) for ids in out[:, width:].tolist()]


def _answer(tokenizer, ids, stops):
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    reason = "length" if end is None else "eot" if ids[end] == tokenizer.eos_token_id else "eos"
    ids = [token for token in ids[:end] if token != tokenizer.pad_token_id]
    return tokenizer.decode(ids, skip_special_tokens=False), reason, len(ids)


def generate_file(folder, prompts, out, max_new_tokens=2048, seed=0, batch_size=24, label=""):
    """Answers every prompt of a list from `conversations.load_prompts` into `out`; returns the rows.

    An `out` that already holds these prompts' answers with these settings is returned as it is.
    """
    settings = {**SAMPLING, "max_new_tokens": max_new_tokens, "seed": seed, "model": str(folder)}
    if Path(out).exists():
        rows = runs.read_jsonl(out)
        asked = [(p["id"], p["messages"][-1]["content"], settings) for p in prompts]
        if [(r["prompt_id"], r["prompt"], r["sampling"]) for r in rows] == asked:
            return rows
    from tqdm import tqdm

    model, tokenizer = load_model(folder)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]["messages"][-1]["content"]))
    rows = [None] * len(prompts)
    starts = range(0, len(order), batch_size)
    with tqdm(total=len(starts) * max_new_tokens, desc=label or str(folder), unit="step", leave=False) as bar:
        for number, start in enumerate(starts):
            chosen = order[start : start + batch_size]
            answers = generate(
                model, tokenizer, [prompts[i]["messages"] for i in chosen], max_new_tokens, seed + number, bar.update
            )
            for i, (text, reason, tokens) in zip(chosen, answers, strict=True):
                rows[i] = {
                    "prompt_id": prompts[i]["id"],
                    "prompt": prompts[i]["messages"][-1]["content"],
                    "response": text,
                    "finish_reason": reason,
                    "tokens": tokens,
                    "sampling": settings,
                    "sample": 0,
                }
    runs.write_jsonl(out, rows)
    return rows


def arguments(doc, prompts=True):
    """The flags that this step's programs share; those about a prompt file only where there are `prompts`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (runs/NAME), a checkpoint, or a prepared base")
    if prompts:
        parser.add_argument("--prompts", default="data/prompts/dev.jsonl", help="prompt file [%(default)s]")
        parser.add_argument("--limit", type=int, help="the first so many prompts only")
    parser.add_argument("--max_new_tokens", type=int, default=2048, help="[%(default)s, the paper's]")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv):
    args = arguments(__doc__).parse_args(argv)
    prompts = conversations.load_prompts(args.prompts, "test")[: args.limit]
    folder = runs.newest_checkpoint(args.run)
    out = Path(args.run) / "generations" / folder.name / f"{Path(args.prompts).stem}.jsonl"
    rows = generate_file(folder, prompts, out, args.max_new_tokens, args.seed)
    ended = sum(row["finish_reason"] == "eot" for row in rows)
    print(f"{len(rows)} answers, {ended} ended by EOT → {out}")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
