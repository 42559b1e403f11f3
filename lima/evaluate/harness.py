"""A capability check of a checkpoint with EleutherAI's lm-evaluation-harness, through its Python API: did fine-tuning cost what
the base knew? It says nothing of how helpful answers are; `make judge` does.

    python -m lima.evaluate.harness --run runs/7b --tasks arc_easy,hellaswag --limit 200
    python -m lima.evaluate.harness --run bases/llama-7b --tasks arc_easy           the base beside it

Writes lm_eval/CHECKPOINT.json in the run. Tasks' questions come from the Hub; `--include FOLDER` adds tasks of your own (YAML).
Tasks that run code which a model wrote are refused.
"""

import argparse
import json
import logging
import sys
from datetime import date
from pathlib import Path

from lima import UserError, exit_codes, runs

TASKS = "arc_easy,hellaswag,piqa,winogrande"


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (its newest checkpoint), a checkpoint, or a prepared base")
    parser.add_argument("--tasks", default=TASKS, help="names, with commas between [%(default)s]")
    parser.add_argument("--limit", type=int, help="questions a task [all]")
    parser.add_argument("--batch_size", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--chat", action="store_true", help="ask in the chat template; without, as plain text")
    parser.add_argument("--include", type=Path, help="a folder of tasks of your own")
    options = parser.parse_args(argv)
    options.tasks = options.tasks.split(",")
    return options


def measure(folder, options):
    """`{task: {metric: value}}` of a folder that loads with `from_pretrained`, as the harness reports it.

    Raises `UserError` without the harness, for a task that it does not know, and for one whose questions cannot be had.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(
            "lm-eval is not installed: `make lm-eval` does that, or pip install -r requirements-lm-eval.txt"
        ) from None
    import torch

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=options.include and str(options.include))
    unknown = [name for name in options.tasks if name not in manager.all_tasks]
    if unknown:
        raise UserError(f"--tasks {unknown[0]}: the harness has no such task; `lm-eval ls tasks` lists its own")
    cuda = torch.cuda.is_available()
    try:
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "bfloat16" if cuda else "float32"},
            tasks=options.tasks,
            limit=options.limit,
            batch_size=options.batch_size,
            device="cuda" if cuda else "cpu",
            apply_chat_template=options.chat,
            task_manager=manager,
            log_samples=False,
        )
    except (OSError, ConnectionError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"the questions of {', '.join(options.tasks)} cannot be had ({said})") from None
    return {task: _numbers(values) for task, values in found["results"].items()}


def _numbers(values):
    """`acc`, `acc_stderr`, …: the harness calls them `acc,none`, after the filter that it has applied."""
    named = {key.removesuffix(",none"): value for key, value in values.items() if "," in key}
    return {key: value for key, value in named.items() if isinstance(value, int | float)}


def show(found):
    """The results as Markdown, with a standard error where the harness gives one."""
    lines = ["| task | metric | value | ± |", "|---|---|---:|---:|"]
    for task, values in found.items():
        for name, value in values.items():
            if "_stderr" not in name:
                error = values.get(f"{name}_stderr")
                lines.append(f"| {task} | {name} | {value:.4f} | {'' if error is None else f'{error:.4f}'} |")
    return "\n".join(lines)


def main(argv):
    options = arguments(argv)
    folder = runs.newest_checkpoint(options.run)
    out = Path(options.run) / "lm_eval" / f"{folder.name}.json"
    count = "all questions" if options.limit is None else f"{options.limit} questions each"
    print(f"plan · {folder} · {', '.join(options.tasks)} · {count} → {out}", flush=True)
    found = measure(folder, options)
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    how = {"limit": options.limit, "chat": options.chat, "date": date.today().isoformat()}
    runs.write_text(out, json.dumps({**kept, **{task: {**values, **how} for task, values in found.items()}}, indent=1))
    print(f"\n{show(found)}\n\nwritten into {out}")


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
