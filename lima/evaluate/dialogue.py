"""Conversations of several turns, each reply a row to be labelled (section 6):
the same ten for every model, as the paper held with and without its 30 dialogue
chains.

  python -m lima.evaluate.dialogue --run runs/7b
      --epochs 5-10                    several checkpoints
      --scripts mine.jsonl             your own dialogues
      --user_model MODEL --base_url http://127.0.0.1:8000/v1
                                       a model plays the user
  python -m lima.evaluate.rate --kind level --answers runs/7b \\
      --prompts dialogue --judge MODEL

The user's turns are fixed (data/prompts/dialogue.jsonl, which a language model
wrote for this repo; 44 replies). The paper's were live: with --user_model, a
model reads a dialogue's goal and what was said, and goes on or ends it, until
--max_turns. The evaluated model sees its own former replies, in generate.py's
format and decoding: a reply follows from --seed, its id and what was said.

Replies lie in runs/NAME/generations/checkpoint-STEP/dialogue.jsonl, with a
simulated user in dialogue-live.jsonl: rows with the id DIALOGUE/TURN, and the
conversation so far as `prompt` and as `messages`. The checkpoint is the one
that selected.json names, else the newest. After Ctrl-C or a death the same
command goes on; where all is there it does nothing. A dialogue that no longer
fits into the model's context ends there, and is named.

A script: {"id": …, "messages": [{"role": "user", "content": …}],
"follow_ups": ["…", "…"], "goal": "…"}; the goal is for --user_model.
"""

import json
import sys
from pathlib import Path

from lima import UserError, exit_codes, runs, turns
from lima.evaluate import answer_file, asking, client, generate
from lima.evaluate.dialogue_scripts import (
    INSTRUCTION,
    SCRIPTS,
    USER_TOKENS,
    next_id,
    prompt_of,
    read_scripts,
    scripted,
    simulated,
)
from lima.evaluate.replies import endpoint, shown, tokens

MAX_TURNS = 5

# ---- dialogues ---------------------------------------------------------------------------------------------------------


def standing(out, scripts, sampling, live):
    """`(prompts, talks)`: what was answered in `out` and what is not whole of it, with what comes next; and the dialogues that
    may go on, as `(script, messages)`. A dialogue with a simulated user that stands in `out` itself has ended."""
    rows, prompts, talks = {}, [], []
    for path in (out, answer_file.partial(out)):
        for row in answer_file.read(path):
            if row["sampling"] == sampling:
                rows.setdefault(row["prompt_id"], {})[row["prompt"]] = (row, path == out)
    for script in scripts:
        messages, ended = script["messages"], False
        while messages[-1]["role"] == "user":
            prompts.append(prompt_of(script, messages))
            row, ended = rows.get(prompts[-1]["id"], {}).get(prompts[-1]["transcript"], (None, False))
            if row is None:
                break
            messages = [*messages, {"role": "assistant", "content": row["response"]}]
            said = scripted([(script, messages)])[0]
            if live:
                later = [row.get("messages", []) for row, _ in rows.get(next_id(script, messages), {}).values()]
                said = next((those[-1]["content"] for those in later if those[:-1] == messages), None)
            messages = [*messages, {"role": "user", "content": said}] if said else messages
        if messages[-1]["role"] == "user" or (live and not ended):
            talks.append((script, messages))
    return prompts, talks


def go_on(talks, user, fits):
    """The dialogues that go on, each with its user's next turn; `fits(messages)` says whether the model can read one."""
    waiting = [talk for talk in talks if talk[1][-1]["role"] == "assistant"]
    said = {script["id"]: text for (script, _), text in zip(waiting, user(waiting), strict=True)} if waiting else {}
    found = []
    for script, messages in talks:
        if text := said.get(script["id"]):
            messages = [*messages, {"role": "user", "content": text}]
        if messages[-1]["role"] == "user" and (len(messages) == 1 or fits(messages)):
            found.append((script, messages))
    return found


def hold(folder, scripts, out, sampling, user=scripted, batch_size=None, overwrite=False):
    """Brings `out` to all replies of the checkpoint `folder` in the dialogues of `scripts`; returns their rows.

    sampling: as `settings` gives it. user: `scripted`, or what `simulated` gives. The replies of one turn, over all dialogues,
    are generated together. The model is loaded only where a reply is missing.
    """
    live, most = user is not scripted, most_turns(scripts, sampling)
    prompts, talks = standing(out, scripts, sampling, live)
    have = answer_file.stored(out, prompts, sampling, overwrite)
    fits = reader(folder) if talks else None
    talks = go_on(talks, user, fits)

    def replies(tick):
        left, (model, tokenizer) = talks, generate.load_model(folder, sampling["dtype"])
        size = batch_size or generate.at_a_time(sampling)
        while left:
            asked, said = [(prompt_of(*talk), 0) for talk in left], {}
            for prompt, *answer in generate.batched(model, tokenizer, asked, sampling, size, tick):
                said[prompt["id"]] = {"role": "assistant", "content": answer[1]}
                yield prompt, *answer
            left = [
                (script, [*messages, said[prompt["id"]]])
                for (script, messages), (prompt, _) in zip(left, asked, strict=True)
            ]
            left = go_on(left, user, fits)

    if talks:
        try:
            answer_file.add(out, have, replies, sampling, len(have), sum(most), folder.name)
        except KeyboardInterrupt:
            print(f"\n{out}: {len(have)} replies are kept; the same command goes on", file=sys.stderr)
            raise
    if talks or answer_file.partial(out).exists():
        order = [{"id": f"{row['id']}/{n + 1}"} for row, count in zip(scripts, most, strict=True) for n in range(count)]
        answer_file.write(out, order, have)
        answer_file.partial(out).unlink(missing_ok=True)
    return list(have.values())


def most_turns(scripts, sampling):
    """Replies that each dialogue has, or with a simulated user may have."""
    return [sampling.get("max_turns") or len(script["follow_ups"]) + 1 for script in scripts]


def reader(folder):
    """`fits(messages)`: whether the model of a checkpoint can read so much and still answer."""
    from transformers import AutoConfig

    tokenizer, adapter = turns.load_tokenizer(folder), Path(folder) / "adapter_config.json"
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapter.exists() else folder
    context = AutoConfig.from_pretrained(base).get_text_config().max_position_embeddings
    return lambda messages: len(turns.encode(tokenizer, messages)[0]) < context


# ---- the command -------------------------------------------------------------------------------------------------------


def settings(folder, args, scripts):
    """`generate.settings`, and what a simulated user depends on."""
    made = generate.settings(folder, args.max_new_tokens, args.seed, args.greedy, args.dtype)
    if args.user_model:
        goals = runs.content_digest([INSTRUCTION, [script["goal"] for script in scripts]])[:16]
        user = {"user_model": args.user_model, "user_endpoint": shown(endpoint(args.base_url))}
        made |= {**user, "max_turns": args.max_turns, "goals": goals}
    return made


def plan(args, scripts, folders, most, have):
    """Lines: what will be done, and what a simulated user may cost at most."""
    count = f"at most {sum(most)}" if args.user_model else sum(most)
    lines = [
        f"{args.run}: {', '.join(folder.name for folder in folders)}",
        f"  {len(scripts)} dialogues ({args.scripts}), {count} replies each time; {have} are there",
    ]
    if args.user_model:
        calls = len(folders) * sum(count - 1 for count in most)
        read = sum(  # every call reads all that was said before it
            tokens(INSTRUCTION + script["goal"]) + turn * (args.max_new_tokens + USER_TOKENS)
            for script, count in zip(scripts, most, strict=True)
            for turn in range(1, count)
        ) * len(folders)
        cost = f"${client.dollars(read, calls * USER_TOKENS, args.price):,.2f}" if args.price else "unknown (--price)"
        lines += [
            f"  user  {args.user_model} at {shown(endpoint(args.base_url))}, at most {calls} calls",
            f"  cost  at most {cost}: {read:,} tokens to read, {calls * USER_TOKENS:,} to write",
        ]
    return lines


def summary(scripts, rows, most, live):
    """Lines: replies by how they ended, and the dialogues that the model's context cut short."""
    held = {
        script["id"]: sum(row["prompt_id"].rpartition("/")[0] == script["id"] for row in rows) for script in scripts
    }
    short = [f"{name} ({held[name]} of {count})" for name, count in zip(held, most, strict=True) if held[name] < count]
    lines = [answer_file.summary(rows).replace("answers", "replies", 1)]
    if live:
        lines.append(f"{len(short)} of {len(scripts)} dialogues ended before --max_turns")
    elif short:
        lines.append(f"ended early, as the model's context was full: {asking.few(short)}")
    return lines


def parser():
    found = generate.arguments(__doc__, prompts=False)
    found.add_argument("--scripts", metavar="FILE", default=str(SCRIPTS), help="[%(default)s]")
    found.add_argument(
        "--epochs", metavar="5-10", help="checkpoints of these epochs; all [the selected, else the newest]"
    )
    found.add_argument("--greedy", action="store_true", help="the likeliest token each time; the penalty stays")
    found.add_argument("--dtype", choices=["bfloat16", "float32", "float16"], default="bfloat16", help="[%(default)s]")
    found.add_argument(
        "--batch_size", type=generate.whole, metavar="N", help="replies at a time [16 on a CPU, 32 on a GPU]"
    )
    found.add_argument("--overwrite", action="store_true", help="replace replies that have other settings")
    found.add_argument(
        "--user_model", metavar="MODEL", help="plays the user; its name at an OpenAI-compatible endpoint"
    )
    found.add_argument("--base_url", help="the user model's, such as http://127.0.0.1:8000/v1")
    found.add_argument("--max_turns", type=generate.whole, metavar="N", help=f"with --user_model [{MAX_TURNS}]")
    found.add_argument("--price", metavar="IN,OUT", help="the user model's, $ per million tokens, such as 2.5,10")
    found.add_argument("--dry_run", action="store_true", help="the plan only")
    return found


def checked(args):
    """The arguments, where they go together."""
    alone = [name for name in ("base_url", "max_turns", "price") if getattr(args, name) and not args.user_model]
    if alone:
        raise UserError(f"--{alone[0]}: is for a simulated user; name the model that plays it with --user_model")
    if args.user_model is not None:
        if not args.user_model.strip():
            raise UserError("--user_model: expected a model's name; a local server lists its own at BASE_URL/models")
        if not args.dry_run:
            client.api_key(endpoint(args.base_url))  # now, not after the first turn
        args.max_turns = args.max_turns or MAX_TURNS
    return args


def set_name(path, live):
    """The prompt set's name, by which the report knows a dialogue."""
    name = Path(path).stem
    return (name if "dialogue" in name else f"dialogue-{name}") + "-live" * live


def main(argv):
    args = checked(parser().parse_args(argv))
    live = bool(args.user_model)
    scripts, name = read_scripts(args.scripts, live), set_name(args.scripts, live)
    folders = generate.chosen(args.run, args.epochs)
    user, have, plans = simulated(args) if live else scripted, 0, []
    for folder in folders:
        out, sampling = folder.parent / "generations" / folder.name / f"{name}.jsonl", settings(folder, args, scripts)
        prompts, talks = standing(out, scripts, sampling, live)
        have += len(prompts) - sum(messages[-1]["role"] == "user" for _, messages in talks)
        answer_file.stored(out, prompts, sampling, args.overwrite)  # refuses other settings before a model is loaded
        plans.append((folder, out, sampling))
    most = most_turns(scripts, plans[0][2])
    print(*plan(args, scripts, folders, most, have), sep="\n", flush=True)
    for folder, out, sampling in plans if not args.dry_run else ():
        rows = hold(folder, scripts, out, sampling, user, args.batch_size, args.overwrite)
        print(*summary(scripts, rows, most, live), f"  {out}", sep="\n", flush=True)
        have -= len(rows)
    if not (args.dry_run or have):
        print("nothing to do: all these replies are there")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
