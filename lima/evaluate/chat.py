"""Talks to a finished run in the terminal.

python -m lima.evaluate.chat --run runs/quickstart        /new starts over, Ctrl-D leaves
"""

import sys

from lima import UserError, exit_codes, runs
from lima.evaluate.generate import arguments, generate, load_model


def main(argv):
    args = arguments(__doc__, prompts=False).parse_args(argv)
    from transformers import TextStreamer

    folder = runs.newest_checkpoint(args.run)
    model, tokenizer = load_model(folder)
    print(f"{folder} · nucleus 0.9, temperature 0.7, penalty 1.2 · /new starts over, Ctrl-D leaves\n")
    messages, seed = [], args.seed
    while True:
        try:
            text = input("you   ").strip()
        except EOFError:
            return print()
        if text in ("/new", "/quit", "/exit"):
            if text != "/new":
                return
            messages = []
            print()
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        print("lima  ", end="", flush=True)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        try:
            answer, reason, tokens = generate(
                model, tokenizer, [messages], args.max_new_tokens, seed, streamer=streamer
            )[0]
        except KeyboardInterrupt:  # stops this answer, not the conversation
            messages.pop()
            print("\n      (stopped)\n")
            continue
        except UserError:  # nothing is left for the answer
            messages.pop()
            print("      (the conversation is as long as the model can read; /new starts over)\n")
            continue
        print(f"      ({reason}, {tokens} tokens)\n")
        messages.append({"role": "assistant", "content": answer})
        seed += 1


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
