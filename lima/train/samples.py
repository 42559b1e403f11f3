"""What the model answers as it is trained: the same few dev prompts at the end of each epoch, read in `samples.jsonl`.

Answers are greedy and short, and say whether the model ends its turn, how long it talks and how much it repeats itself.
They are for reading along; the checkpoint is picked from the judged answers of `make generate` (section 4.1's decoding).
"""

import json
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, Trainer, TrainerCallback

from lima import turns

NEW_TOKENS = 64  # of an answer, at most
REPEATED = 4  # tokens in a row


class Samples(TrainerCallback):
    """After each epoch's last step, before held-out loss and checkpoint: answers to `prompts`, rows of
    `conversations.load_prompts`, and `samples/eot_share`, `…/mean_tokens`, `…/repetition` and `…/seconds` as logged numbers.

    Every rank generates (under ZeRO-3 no rank holds the whole model), the first writes. Training goes on as if nothing had
    happened: its random states, modes and weights are what they were.
    """

    def __init__(self, trainer, tokenizer, prompts):
        self.trainer, self.tokenizer, self.prompts = trainer, tokenizer, prompts

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.trainer.batches.steps() and state.global_step < state.max_steps:
            return  # stopped within an epoch
        started = time.perf_counter()
        with self.trainer.accelerator.autocast():  # outside the model's own: weights are cast once, not for every token
            found = answers(model, self.tokenizer, [prompt["messages"] for prompt in self.prompts])
        seconds = time.perf_counter() - started
        rows = [
            {
                "step": state.global_step,
                "epoch": state.epoch,
                "prompt_id": prompt["id"],
                "prompt": prompt["messages"][-1]["content"],
                "response": self.tokenizer.decode(ids, skip_special_tokens=False),
                "finish_reason": reason,
                "tokens": len(ids),
            }
            for prompt, (ids, reason) in zip(self.prompts, found, strict=True)
        ]
        if state.is_world_process_zero:
            with (Path(args.output_dir) / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        numbers = {f"samples/{name}": value for name, value in measures(found).items()}
        # past TRL's own `log`, which adds, and forgets, what it has gathered for the next training row
        Trainer.log(self.trainer, {**numbers, "samples/seconds": round(seconds, 2)})


def answers(model, tokenizer, conversations, new_tokens=NEW_TOKENS):
    """Greedy answers to conversations that end on a user turn, as one batch padded on the left.

    Returns `[(ids, finish_reason), …]`: the tokens before the stop, and `eot`, `eos` (the base's own end of text) or `length`.
    The model's modes and the random states stay as they were.
    """
    prompts = [{"input_ids": turns.encode(tokenizer, messages)[0]} for messages in conversations]
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(model.device)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    if tokenizer.eos_token_id not in stops:
        stops = [tokenizer.eos_token_id, *stops]
    greedy = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        use_cache=True,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )
    training = [module for module in model.modules() if module.training]
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices), torch.no_grad():
            out = model.generate(**batch, generation_config=greedy)  # under ZeRO-3 on all ranks until the last is done
    finally:
        for module in training:
            module.training = True
    return [_cut(tokenizer, ids, stops) for ids in out[:, batch["input_ids"].shape[1] :].tolist()]


def _cut(tokenizer, ids, stops):
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    reason = "length" if end is None else "eot" if ids[end] == tokenizer.eos_token_id else "eos"
    return [token for token in ids[:end] if token != tokenizer.pad_token_id], reason


def measures(found):
    """Of `[(ids, finish_reason), …]`: the share ended by EOT, the mean number of tokens, and the mean share of an answer's
    4-grams of tokens that stood in it before (0.0 where it has none)."""
    return {
        "eot_share": round(sum(reason == "eot" for _, reason in found) / len(found), 4),
        "mean_tokens": round(sum(len(ids) for ids, _ in found) / len(found), 2),
        "repetition": round(sum(repetition(ids) for ids, _ in found) / len(found), 4),
    }


def repetition(ids):
    """The share of 4-grams that stood in `ids` before; 0.0 for fewer than four tokens."""
    grams = [tuple(ids[i : i + REPEATED]) for i in range(len(ids) - REPEATED + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
