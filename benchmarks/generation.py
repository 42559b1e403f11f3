"""Answers in batches against one prompt at a time: SmolLM2-135M, the dev prompts, `make generate`'s own decoding.

    python -m benchmarks.generation [--prompts 16] [--tokens 24] [--batch 16] [--rounds 2]

The ways take turns, so that a machine that slows down slows both. Greedy answers in float32 are compared text by text: the
program fails where the batch changed one. Prints a Markdown table of tokens/s (median, min–max).
"""

import argparse
import statistics
import sys
import time

import torch

from benchmarks.step import model_folder
from lima import UserError, exit_codes
from lima.evaluate import generate

ARMS = {"float32, greedy": ("float32", True), "bfloat16, the paper's decoding": ("bfloat16", False)}


def measure(model, tokenizer, asked, sampling, size):
    """`(tokens/s, {prompt id: text})` of one round."""
    tokens, texts = 0, {}

    def tick(count, note=None):
        nonlocal tokens
        tokens += count

    started = time.perf_counter()
    for prompt, _, text, *_ in generate.batched(model, tokenizer, asked, sampling, size, tick):
        texts[prompt["id"]] = text
    return tokens / (time.perf_counter() - started), texts


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=generate.whole, default=16, help="dev prompts [%(default)s]")
    parser.add_argument("--tokens", type=generate.whole, default=24, help="of an answer, at most [%(default)s]")
    parser.add_argument("--batch", type=generate.whole, default=16, help="prompts at a time [%(default)s]")
    parser.add_argument("--rounds", type=generate.whole, default=2, help="of each [%(default)s]")
    args = parser.parse_args(argv)
    folder = model_folder("embedded", None)
    asked = [(prompt, 0) for prompt in generate.load_prompts("dev")[1][: args.prompts]]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU cores"
    print(
        f"SmolLM2-135M on {device} · {len(asked)} prompts, at most {args.tokens} tokens each · {args.rounds} rounds",
        flush=True,
    )
    table = [f"| tokens/s | one at a time | {args.batch} at a time | |", "|---|---:|---:|---:|"]
    for name, (dtype, greedy) in ARMS.items():
        model, tokenizer = generate.load_model(folder, dtype)
        sampling = generate.settings(folder, args.tokens, greedy=greedy, dtype=dtype)
        measure(model, tokenizer, asked[:1], {**sampling, "max_new_tokens": 4}, 1)  # the first pass is slow
        rates = {1: [], args.batch: []}
        for number in range(args.rounds):
            said = []
            for size in rates:
                rate, texts = measure(model, tokenizer, asked, sampling, size)
                rates[size].append(rate)
                said.append(texts)
                print(f"  {name}, round {number + 1}: {size:2} at a time {rate:7.1f} tokens/s", flush=True)
            differ = [key for key in said[0] if said[0][key] != said[-1][key]]
            if greedy and differ:
                raise UserError(f"{len(differ)} of {len(asked)} greedy answers differ in float32, such as {differ[0]}")
        once, many = (statistics.median(rate) for rate in rates.values())
        spans = [f"{statistics.median(rate):.1f} ({min(rate):.1f}–{max(rate):.1f})" for rate in rates.values()]
        table.append(f"| {name} | {' | '.join(spans)} | {many / once:.1f}× |")
    print("\n" + "\n".join(table))


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
