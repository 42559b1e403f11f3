"""Checkpoints + prompts → answers, with the paper's decoding (section 4.1):
nucleus p 0.9, temperature 0.7, repetition penalty 1.2 on the tokens generated
so far, at most 2,048 tokens, stop at EOT.

  python -m lima.evaluate.generate --run runs/7b      the selected checkpoint
                                   (selected.json), else the newest
      --epochs 5-10                    the paper's candidates (section 3)
      --prompts test --samples 5       100 prompts, 5 answers each
      --prompts mine.jsonl             rows with `messages`

Answers lie in runs/NAME/generations/checkpoint-STEP/PROMPTS.jsonl, a row each.
Each is kept as soon as it is complete: after Ctrl-C or a death the same
command goes on, and where all is there it does nothing. More --samples, and
prompts that --limit left out, are added to what is there; answers with other
settings are replaced only with --overwrite.

An answer depends on --seed, its prompt's id and its sample's number, and on
no neighbour, order or --batch_size: exactly so in float32. In bfloat16 a
batch rounds otherwise than one row, and now and then an answer takes another
turn at a near-tie. A CPU and a GPU draw different numbers.

--engine vllm, where vLLM is installed: the same stops, temperature, nucleus
and penalty, but its own random numbers. The penalty is ours, on generated
tokens: vLLM's repetition_penalty counts the prompt too, where EOT stands.
"""

import argparse
import re
import sys
from pathlib import Path

from lima import UserError, conversations, exit_codes, runs, turns
from lima.evaluate import answer_file
from lima.evaluate.answers import selected

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}
AT_A_TIME = {"cpu": 16, "cuda": 32, "vllm": 256}


# ---- a model and its answers -------------------------------------------------------------------------------------------


def load_model(folder, dtype="bfloat16"):
    """`(model, tokenizer)` from a prepared base or a checkpoint; on the GPU if there is one, spread over several."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = _checkpoint(folder)
    tokenizer = turns.load_tokenizer(folder)
    spread = {"device_map": "auto"} if torch.cuda.device_count() > 1 else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **spread)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: not a model that transformers can load ({' '.join(str(error).split())[:200]})"
        ) from None
    return (model if spread else model.to("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer


def _checkpoint(folder):
    """`folder` if it is a checkpoint (one with only an adapter too), else the newest of that run."""
    return Path(folder) if (Path(folder) / "adapter_config.json").exists() else runs.newest_checkpoint(folder)


def generate(model, tokenizer, conversations, max_new_tokens=2048, seed=0, tick=None, streamer=None, sampling=SAMPLING):
    """Answers to conversations that end on a user turn, as one batch: `[(text, finish_reason, tokens), …]`.

    finish_reason: `eot`, `eos` (the base's own end of text) or `length`. The penalty counts generated tokens only, as the
    paper's does: transformers' default also counts the prompt, where EOT stands, and so pushes the model from stopping.
    `tick(tokens)` is called after every step of the batch.
    """
    from lima.evaluate import decoding

    sampling = {**sampling, "max_new_tokens": max_new_tokens, "seed": seed}
    names = [(str(number), 0) for number in range(len(conversations))]
    found = decoding.answers(model, tokenizer, conversations, names, sampling, tick, streamer)
    return [tuple(answer) for _, *answer in sorted(found)]


def answers(folder, asked, sampling, batch_size, tick):
    """Loads the model of `folder`; its answers as `batched` yields them."""
    return batched(*load_model(folder, sampling["dtype"]), asked, sampling, batch_size, tick)


def batched(model, tokenizer, asked, sampling, batch_size, tick):
    """Yields `(prompt, sample, text, finish_reason, tokens)` for `asked`, a list of `(prompt, sample)`, as answers end.

    In batches of like lengths, the longest prompts first; on a GPU whose memory is too small for a batch, of half the size from
    there on. `tick(tokens, note=None)` is called after every step.
    """
    import torch

    from lima.evaluate import decoding

    left = sorted(asked, key=lambda pair: -len(turns.encode(tokenizer, pair[0]["messages"])[0]))
    while left:
        batch, ended = left[:batch_size], set()
        texts, names = [prompt["messages"] for prompt, _ in batch], [(prompt["id"], sample) for prompt, sample in batch]
        try:
            for number, *answer in decoding.answers(model, tokenizer, texts, names, sampling, tick):
                ended.add(number)
                yield *batch[number], *answer
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise UserError(
                    "the GPU's memory holds not even one answer; lower --max_new_tokens, or take a larger GPU"
                ) from None
            batch_size = len(batch) // 2 or 1
            tick(0, f"out of memory: {batch_size} at a time from here on")
        torch.cuda.empty_cache()  # out of the handler, which holds on to what did not fit
        left = [pair for number, pair in enumerate(batch) if number not in ended] + left[len(batch) :]


# ---- a file of answers -------------------------------------------------------------------------------------------------


def settings(folder, max_new_tokens=2048, seed=0, greedy=False, dtype="bfloat16", engine="transformers"):
    """Everything that an answer depends on beside its prompt and sample: the `sampling` of its row."""
    import torch

    marker = runs.marker(folder) or {"files": {}}
    weights = {name: file["sha256"] for name, file in marker["files"].items() if name.endswith(".safetensors")}
    return {
        "engine": engine,
        **(SAMPLING | {"temperature": 0.0, "top_p": 1.0} if greedy else SAMPLING),
        "penalised": "generated tokens",
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "dtype": dtype,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "model": Path(folder).name,
        "weights": runs.content_digest(weights)[:16] if weights else None,
    }


def generate_file(folder, prompts, out, sampling, samples=1, limit=None, batch_size=None, overwrite=False, label=""):
    """Answers the first `limit` of `prompts`, each `samples` times, into `out` as `answer_file.fill` does; returns their rows.

    `sampling` as `settings` gives it. The model is loaded only where an answer is missing.
    """
    engine = answers
    if sampling["engine"] == "vllm":
        from lima.evaluate import vllm_engine

        engine = vllm_engine.answers

    def missing_answers(asked, tick):
        return engine(folder, asked, sampling, batch_size or at_a_time(sampling), tick)

    return answer_file.fill(out, prompts, sampling, missing_answers, samples, limit, overwrite, label or str(folder))


def at_a_time(sampling):
    """How many answers are generated together unless told otherwise."""
    return AT_A_TIME["vllm" if sampling["engine"] == "vllm" else sampling["device"]]


# ---- the command -------------------------------------------------------------------------------------------------------


def load_prompts(name, split="test"):
    """`(name of the set, rows)` of `dev`, `test` or another bare word (data/prompts/WORD.jsonl), or a file.

    Raises `UserError` where two prompts have one id, as answers are kept by it, and for dialogues (dialogue.py).
    """
    path = f"data/prompts/{name}.jsonl" if re.fullmatch(r"[\w-]+", name) else name
    if path != name and not Path(path).is_file():
        have = ", ".join(sorted(file.stem for file in Path("data/prompts").glob("*.jsonl"))) or "none"
        raise UserError(f"{path}: no such prompts; there are: {have}; or give a file's path, such as ./{name}.jsonl")
    rows, first = conversations.load_prompts(path, split), {}
    if any("follow_ups" in row for row in rows):
        raise UserError(f"{path}: dialogues, not single prompts; python -m lima.evaluate.dialogue --scripts {path}")
    for row in rows:
        if row["id"] in first:
            raise UserError(
                f"{path}: rows {first[row['id']]} and {row['row']} both have id {row['id']!r} (rows count from 0); answers "
                "are kept by id, so give each prompt its own"
            )
        first[row["id"]] = row["row"]
    return Path(path).stem, rows


def chosen(run, epochs=None):
    """`{folder: epoch as text}`: the complete checkpoints of a run whose epochs `runs.parse_epochs` finds in `epochs`, else
    the one that its selected.json names, else the newest (or `run` itself, a checkpoint or base)."""
    run = Path(run)
    if epochs is None and (best := selected(run)):
        if not runs.marker(run / best):
            raise UserError(
                f"{run / 'selected.json'}: names {best}, which is no complete checkpoint here; select again, or name --epochs"
            )
        return {run / best: ", ".join(filter(None, [_epoch(run / best, None), "selected"]))}
    if epochs is None:
        folder = _checkpoint(run)
        return {folder: _epoch(folder, None)}
    wanted = runs.parse_epochs(epochs, "--epochs")
    found = runs.checkpoints(run)
    if not found:
        runs.newest_checkpoint(run)  # says what is there instead
        raise UserError(f"{run}: --epochs chooses among the checkpoints of a run, and this is not one; give runs/NAME")
    names = {folder: _epoch(folder, number) for number, folder in enumerate(found, 1)}
    picked = {
        folder: name for folder, name in names.items() if epochs == "all" or (name.isdecimal() and wanted(int(name)))
    }
    if not picked:
        still = f" ({runs.trained_by(run)} still trains it)" if runs.trained_by(run) else ""
        raise UserError(f"{run}: no complete checkpoint of epochs {epochs}; it has {', '.join(names.values())}{still}")
    return picked


def _epoch(folder, otherwise):
    """The epoch that a checkpoint gives, "7" for a whole one; `otherwise` where it gives none."""
    epoch = (runs.marker(folder) or {}).get("epoch", otherwise)
    return "" if epoch is None else f"{round(epoch, 2):g}"


def arguments(doc, prompts=True):
    """The flags that this step's programs share; those about a prompt file only where there are `prompts`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (runs/NAME), a checkpoint, or a prepared base")
    if prompts:
        parser.add_argument(
            "--prompts", default="dev", help="dev, test (data/prompts/NAME.jsonl), or a file [%(default)s]"
        )
        parser.add_argument("--limit", type=whole, metavar="N", help="the first N prompts only")
    parser.add_argument("--max_new_tokens", type=whole, metavar="N", default=2048, help="[%(default)s, the paper's]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    return parser


def whole(text):
    """A whole number from 1 on."""
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on; found {text!r}")
    return int(text)


def main(argv):
    parser = arguments(__doc__)
    parser.add_argument(
        "--epochs", metavar="5-10", help="checkpoints of these epochs; all [the selected, else the newest]"
    )
    parser.add_argument("--samples", type=whole, metavar="N", default=1, help="answers to each prompt [%(default)s]")
    parser.add_argument(
        "--batch_size", type=whole, metavar="N", help="answers at a time [16 on a CPU, 32 on a GPU, 256 for vllm]"
    )
    parser.add_argument("--greedy", action="store_true", help="the likeliest token each time; the penalty stays")
    parser.add_argument("--dtype", choices=["bfloat16", "float32", "float16"], default="bfloat16", help="[%(default)s]")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="[%(default)s]")
    parser.add_argument("--overwrite", action="store_true", help="replace answers that have other settings")
    parser.add_argument("--dry_run", action="store_true", help="the plan only")
    args = parser.parse_args(argv)
    if args.greedy and args.samples > 1:
        raise UserError(f"--samples {args.samples}: greedy answers are all the same; leave one of the two out")
    name, prompts = load_prompts(args.prompts)
    folders = chosen(args.run, args.epochs)
    given = args.max_new_tokens, args.seed, args.greedy, args.dtype, args.engine
    plans = [
        (folder, settings(folder, *given), folder.parent / "generations" / folder.name / f"{name}.jsonl")
        for folder in folders
    ]
    asked = {(prompt["id"], sample) for prompt in prompts[: args.limit] for sample in range(args.samples)}
    have = sum(
        len(asked & answer_file.stored(out, prompts, sampling, args.overwrite).keys()) for _, sampling, out in plans
    )
    print(plan(args, name, len(prompts[: args.limit]), folders, plans[0][1], have), flush=True)
    if args.dry_run:
        return
    for folder, sampling, out in plans:
        rows = generate_file(
            folder, prompts, out, sampling, args.samples, args.limit, args.batch_size, args.overwrite, folder.name
        )
        print(f"{answer_file.summary(rows)}\n  {out}", flush=True)
    if have == len(asked) * len(folders):
        print("nothing to do: all these answers are there")


def plan(args, name, prompts, folders, sampling, have):
    """What will be done, in four lines."""
    epochs, steps = [epoch for epoch in folders.values() if epoch], [folder.name.split("-")[-1] for folder in folders]
    which = f"checkpoint {steps[0]}" if len(steps) == 1 else f"{len(steps)} checkpoints, {steps[0]} to {steps[-1]}"
    trained_by = runs.trained_by(args.run)
    return "\n".join(
        [
            f"{args.run}: {which}"
            + (f" (epoch {', '.join(epochs)})" if epochs else "")
            + (f"; {trained_by} still trains it" if trained_by else ""),
            f"  {len(folders)} × {prompts} prompts ({name}) × {args.samples} = {len(folders) * prompts * args.samples} answers, "
            f"{have} of them there already",
            f"  temperature {sampling['temperature']}, nucleus {sampling['top_p']}, penalty {sampling['repetition_penalty']} on "
            f"generated tokens; {sampling['max_new_tokens']:,} at most",
            f"  {args.engine} on {_device()}, {args.dtype}, {args.batch_size or at_a_time(sampling)} at a time, seed {args.seed}",
        ]
    )


def _device():
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
