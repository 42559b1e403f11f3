"""The studio: review candidates and compare answers in the browser.

    python -m lima.studio.serve --data data/lima-open
    python -m lima.studio.serve --a runs/7b --b answers/gpt-4o-mini --prompts test \\
        --annotators anna ben
    python -m lima.studio.serve --rate runs/7b --prompts test --limit 50

Review   accept, reject or edit candidates of a mix (section 2); every decision
         is a line of data/NAME/decisions.jsonl, for `make curate-mix`
Compare  two answers, blind, in random order (section 4.1); verdicts are rows of
         judgments/A-vs-B.jsonl
Rate     one answer: excellent, pass or fail (section 4.3)

With --annotators everybody gets the same --shared items, for agreement, and the
rest is divided; without, everybody gets all. Results are shown to whoever has
finished. All is on disk at every key: stop with Ctrl-C and go on when you like.

It listens on this machine alone. --share listens on the network and asks for a
password (STUDIO_PASSWORD, or typed here); put it behind https, or an ssh tunnel.
"""

import argparse
import getpass
import os
import re
import socket
import sys
from pathlib import Path

from lima import UserError, exit_codes

STARTER = "data/starter.jsonl"
HINTS = {
    "compare": "Nothing to compare. Name two systems with answers: `make studio A=runs/7b B=answers/OTHER PROMPTS=test`. "
    "After `make quickstart`, `make studio` compares the model before and after.",
    "rate": "Nothing to rate. Name a run whose answers are there: `make studio RATE=runs/7b PROMPTS=test`.",
}
LEAST = 8  # characters of a password


def main(argv):
    args = arguments().parse_args(argv)
    listener = listen("0.0.0.0" if args.share else "127.0.0.1", args.port)  # before any work: the port may be taken
    password = ask_password() if args.share else None
    from lima.curate.report import counter
    from lima.evaluate import asking
    from lima.studio import annotate, app
    from lima.studio.review import Review

    prompts = args.prompts
    if args.a or args.b:
        if not (args.a and args.b):
            raise UserError("to compare, give both --a and --b (A= and B=)")
        items = annotate.pairs(args.a, args.b, prompts, args.partial)
    else:
        items = annotate.pairs(*found, prompts) if (found := before_after(prompts)) else []
        if found and not items:
            print("compare   before and after are the same, word for word")
    rooms = {"compare": items, "rate": annotate.levels(args.rate, prompts) if args.rate else []}
    for name, items in rooms.items():
        rooms[name] = annotate.Room(items, args.annotators, args.shared, args.seed, args.limit) if items else None
        if (args.a if name == "compare" else args.rate) and not items:
            raise UserError(f"{prompts}: nothing to {name}: all answers are the same, word for word")
    review = Review(args.data or default_data(), counter(args.tokenizer)[0], args.decisions)
    plan(review, rooms, args)
    instructions = {
        name: unwrapped(asking.for_people(asking.read_instruction(asking.INSTRUCTIONS / f"{file}.txt", ())))
        for name, file in (("compare", "pair"), ("rate", "level"))
    }
    run(app.make(review, **rooms, instructions=instructions, hints=HINTS, password=password), listener)


def listen(host, port):
    """A socket on the port. Raises `UserError` where another has it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError):
        raise UserError(
            f"port {port} is in use, or not allowed; stop what runs there, or give another: PORT={port + 1}"
        ) from None
    return listener


def ask_password():
    """From STUDIO_PASSWORD, or typed. Raises `UserError` for none, or one of fewer than eight characters."""
    found = os.environ.get("STUDIO_PASSWORD")
    if found is None:
        if not sys.stdin.isatty():
            raise UserError("--share needs a password; set STUDIO_PASSWORD")
        found = getpass.getpass("password for everybody who shall come in: ")
    if len(found) < LEAST:
        raise UserError(f"the password is too short; give {LEAST} characters or more")
    return found


def before_after(prompts):
    """`(base's answers, [trained model's answers])` that the last quickstart left, or None."""
    before = Path(f"runs/quickstart/generations/base/{prompts}.before_after.jsonl")
    after = sorted(before.parent.parent.glob(f"checkpoint-*/{before.name}"), key=lambda path: path.stat().st_mtime)
    return (str(before), [str(after[-1])]) if before.is_file() and after else None


def default_data():
    mixed = Path("data/lima-open")
    return mixed if (mixed / "review.jsonl").is_file() else STARTER


def unwrapped(text):
    """The text with its paragraphs on one line each; short lines, such as those of a list, stay."""
    return re.sub(r"(?m)^(.{90,})\n(?!\n)", r"\1 ", text)


def plan(review, rooms, args):
    decided = len(review.decided())
    print(f"review    {review.name}: {len(review.rows):,} candidates, {decided:,} decided → {review.journal.path}")
    for name, room in rooms.items():
        if room is None:
            continue
        files = ", ".join(str(journal.path) for journal in room.journals)
        each = f"{len(room.shared):,} for everybody" if args.annotators else "all for everybody"
        rest = f", {len(room.divided):,} divided among {len(args.annotators)}" if room.divided else ""
        print(f"{name:<9} {len(room.items):,} items: {each}{rest} → {files}")
    host = socket.gethostname() if args.share else "127.0.0.1"
    print(f"studio    http://{host}:{args.port}   (Ctrl-C ends it; all is saved)", flush=True)
    if args.share:
        print(
            "shared    user studio, and the password; plain http, so use it behind https or an ssh tunnel", flush=True
        )


def run(app, listener):
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="a folder of the mix, or a .jsonl file (default: data/lima-open, or the starter set)"
    )
    parser.add_argument(
        "--decisions", help="where decisions are kept (default: in the data's folder, or beside the file)"
    )
    parser.add_argument("--tokenizer", help="a folder with a tokenizer, to count tokens rather than estimate them")
    parser.add_argument("--a", metavar="SPEC", help="answers to compare: a run, a checkpoint, answers/MODEL or a file")
    parser.add_argument("--b", metavar="SPEC", nargs="+", help="the other system, or several")
    parser.add_argument("--rate", metavar="SPEC", help="answers to rate one by one")
    parser.add_argument("--prompts", default="dev", help="the prompt set that was answered [%(default)s]")
    parser.add_argument("--partial", action="store_true", help="compare the prompts that both have answered")
    parser.add_argument(
        "--annotators", nargs="+", default=[], metavar="NAME", help="who shares the work, by name or code"
    )
    parser.add_argument("--shared", type=int, default=50, metavar="N", help="items that all of them get [%(default)s]")
    parser.add_argument("--limit", type=int, metavar="N", help="N items drawn at random, rather than all")
    parser.add_argument(
        "--seed", type=int, default=0, help="what is drawn, its order and sides follow it [%(default)s]"
    )
    parser.add_argument("--port", type=int, default=7860, help="[%(default)s]")
    parser.add_argument("--share", action="store_true", help="listen on the network, with a password")
    return parser


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
