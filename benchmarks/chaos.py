"""Kills a small training over and over, resumes it, and compares the end with that of a run that nothing disturbed.

python -m benchmarks.chaos [--faults 120] [--seed 0] [--only WORD]      or make chaos; the table goes into docs/reliability.md

A fault has been survived when, after it and one resume, the final weights are bit for bit those of the undisturbed run, the
kept checkpoints are the same, and no checkpoint that was complete before has changed or gone. Exits with 1 if one was not.
"""

import argparse
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import faults
from benchmarks.forks import ended, forked, import_all, prepare, train, words
from lima import recipe, runs


@dataclass
class Fault:
    """`inside(random)` in the dying process; `outside(checkpoint, random)` on its newest checkpoint after it."""

    name: str
    inside: object = None
    outside: object = None
    hub: object = None  # `hub(server, random)`, in place of both: what happens to a push of a finished run
    ends: tuple = (-9,)  # exit codes that show that it happened
    disk: int = 0  # MB of a file system of its own
    ranks: int = 1
    flags: tuple = ()
    weight: int = 1
    resumed: list = field(default_factory=list)  # seconds to the first step after each death
    lost: list = field(default_factory=list)  # what went wrong


FAULTS = [
    Fault("SIGKILL at a random step", faults.kill_at_a_step, weight=2),
    Fault("SIGKILL at a random moment", faults.kill_at_a_moment, ends=(-9, 0), weight=3),
    Fault("SIGTERM or SIGUSR1 at a random step", faults.told_to_stop, ends=(0,), weight=2),
    Fault("SIGKILL before a save", faults.kill_before_a_save),
    Fault("SIGKILL amid the weights", faults.kill_in_the_weights, weight=2),
    Fault("SIGKILL amid the optimiser's state", faults.kill_in_the_optimiser, weight=2),
    Fault("SIGKILL amid the random state", faults.kill_in_the_random_state),
    Fault("SIGKILL before the marker", faults.kill_before_the_marker),
    Fault("SIGKILL between marker and rename", faults.kill_between_marker_and_rename, weight=2),
    Fault("SIGKILL right after the rename", faults.kill_after_the_rename),
    Fault("SIGKILL while older checkpoints go", faults.kill_while_thinning, weight=2),
    Fault("SIGKILL of one of two ZeRO-3 ranks", faults.kill_at_a_step, ranks=2),
    Fault("disk full", faults.disk_that_fills, ends=(2,), disk=200),
    Fault("disk turned read-only", faults.disk_that_turns_read_only, ends=(2,), disk=200),
    Fault("a file of the newest checkpoint cut", faults.kill_at_a_step, faults.truncate_a_file, weight=2),
    Fault("a bit of the newest checkpoint flipped", faults.kill_at_a_step, faults.flip_a_bit, weight=2),
    Fault("a file of the newest checkpoint gone", faults.kill_at_a_step, faults.lose_a_file),
    Fault(
        "W&B that nobody answers", faults.wandb_that_nobody_answers, ends=(0,), flags=("--report_to", "wandb"), weight=0
    ),
    Fault("W&B that is slow", faults.wandb_that_is_slow, ends=(0,), flags=("--report_to", "wandb"), weight=0),
    Fault("W&B that fails mid-run", faults.wandb_that_fails, ends=(0,), flags=("--report_to", "wandb"), weight=0),
    Fault("the Hub fails a push", hub=faults.hub_that_fails, ends=(2,)),
    Fault("SIGKILL of a push", hub=faults.push_that_is_killed),
]


# ---- one fault -------------------------------------------------------------------------------------------------------


def weights(run):
    """`{checkpoint: digest of its weights}` of the complete checkpoints, each read through; a changed file is an error."""
    out = {}
    for folder in runs.checkpoints(run):
        for name, digest in runs.marker(folder)["files"].items():
            if runs.sha256(folder / name) != digest["sha256"]:
                raise AssertionError(f"{folder.name}/{name} has changed")
        out[folder.name] = runs.sha256(folder / "model.safetensors")
    return out


@contextlib.contextmanager
def disk(run, size):
    """A file system of `size` MB at `run`, until the end; none for 0."""
    Path(run).mkdir(parents=True)
    if not size:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", run], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", run], check=True)


def try_once(fault, place, seed, undisturbed):
    """Lets the fault happen, resumes, and returns `(seconds to the first step, None or what was lost)`."""
    chance, run = random.Random(seed), place / "runs" / f"{fault.name.replace(' ', '-')}-{seed}"
    dies = chance.randrange(fault.ranks)
    with disk(run, fault.disk):
        more = {"run": str(run)} if fault.disk else {}
        codes = train(place, run, fault.ranks, fault.flags, lambda rank: rank == dies and fault.inside(chance, **more))
        before = weights(run)
        if fault.outside and before:
            newest = runs.checkpoints(run)[-1]
            fault.outside(newest, chance)
            before.pop(newest.name)
        if fault.disk:
            subprocess.run(["mount", "-o", "remount,rw", run], check=True)
            (run / "filler").unlink(missing_ok=True)
        clock = place / "clock"
        clock.unlink(missing_ok=True)
        started = time.time()
        again = train(place, run, fault.ranks, (), lambda rank: rank == 0 and faults.at_first_step(clock))
        seconds = float(clock.read_text()) - started if clock.exists() else None
        problem = judge(before, undisturbed[fault.ranks], run, codes, again)
        if codes[dies] not in fault.ends:
            problem = f"the fault did not happen: ended with {codes}"
        if problem is None:
            shutil.rmtree(run, ignore_errors=True)
        return seconds, problem


def try_push(fault, place, seed):
    """As `try_once`, for a push of the undisturbed run: what is on the Hub in the end is what is here, and that is as it was."""
    sys.path.insert(0, "tests")  # the Hub on this machine is the tests'
    from servers.hub import Hub

    from lima.publish import push, verify

    run, chance = place / "undisturbed-kept-1", random.Random(seed)
    if not (runs.checkpoints(run)[-1] / verify.RECORD).exists():
        assert ended(forked(lambda: verify.main(["--run", str(run)]), place / "log")) == 0, (place / "log").read_text()
    before = {path: runs.sha256(path) for path in run.glob("checkpoint-*/*")}

    def start(server):
        def work():
            from huggingface_hub import constants

            constants.ENDPOINT, constants.HF_HUB_OFFLINE = server.url, False
            os.environ.update(HF_TOKEN=server.token, HF_HOME=str(place / "hf"))
            push.main(["--run", str(run), "--hub", "org/chaos"])

        return forked(work, place / "log")

    with Hub(place / f"hub-{seed}", large=2**16) as server:
        pid = fault.hub(server, chance, start)
        code = ended(pid)
        server.faults.clear()
        started = time.time()
        again = ended(start(server))
        if code not in fault.ends or again:
            return None, f"ended with {code}, then {again}"
        for folder in runs.checkpoints(run):
            revision = f"epoch-{runs.marker(folder)['epoch']:02.0f}"
            there = server.files("org/chaos", revision)
            if there["model.safetensors"] != (folder / "model.safetensors").read_bytes():
                return None, f"{revision} has other weights than {folder.name}"
    if before != {path: runs.sha256(path) for path in run.glob("checkpoint-*/*")}:
        return None, "the push changed the run"
    return time.time() - started, None


def judge(before, undisturbed, run, codes, again):
    """What went wrong, in a line, or None. `before`: the complete checkpoints after the death."""
    if any(again):
        return f"resuming ended with {again} after {codes}"
    wrong = (
        [name for name, digest in before.items() if digest != undisturbed["all"][name]] if undisturbed["all"] else []
    )
    if wrong:
        return f"{wrong[0]} differed already when the fault came"
    after = weights(run)
    if after != undisturbed["kept"]:
        return f"ended with {sorted(after)}, expected {sorted(undisturbed['kept'])} with the same bits"
    if (run / "saving").exists():
        return "saving/ is left"
    return None


def undisturbed(place, ranks):
    """The weights of the checkpoints of a run that nothing disturbs: `kept` at its end, and `all` that it ever wrote."""
    out = {}
    for topic, flags in (
        ("kept", []),
        ("all", ["--keep_epochs", "all", "--save_strategy", "steps", "--save_steps", "1"]),
    ):
        run = place / f"undisturbed-{topic}-{ranks}"
        codes = train(place, run, ranks, flags)
        assert not any(codes), (place / "log").read_text()[-3000:]
        out[topic] = weights(run)
    return out


# ---- all of them -----------------------------------------------------------------------------------------------------


def deal(chosen, count):
    """`count` faults, each as often as its weight says and at least once."""
    row = [fault for fault in chosen for _ in range(fault.weight)]
    first = [*chosen, *(row * (count // max(1, len(row)) + 1))]
    return first[: max(count, len(chosen))]


def table(chosen):
    lines = ["| fault | tries | survived | seconds to go on (median) |", "|---|---:|---:|---:|"]
    for fault in chosen:
        tries = len(fault.resumed)
        went_on = [seconds for seconds in fault.resumed if seconds is not None]
        middle = f"{statistics.median(went_on):.1f}" if went_on else "–"
        lines.append(f"| {fault.name} | {tries} | {tries - len(fault.lost)} | {middle} |")
    tries, lost = (sum(len(getattr(fault, name)) for fault in chosen) for name in ("resumed", "lost"))
    return [*lines, f"| **all** | **{tries}** | **{tries - lost}** | |"]


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=120, help="how many in all [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of where each strikes [%(default)s]")
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--skip", nargs="*", default=[], help="all but those whose name has one of these in it")
    options = parser.parse_args(argv)
    from tqdm import tqdm

    import_all()
    from lima.train import memory

    chosen = [fault for fault in FAULTS if options.only in fault.name]
    chosen = [fault for fault in chosen if not any(word in fault.name for word in options.skip)]
    chosen = [fault for fault in chosen if not fault.disk or os.geteuid() == 0]  # only root may mount
    place = Path(tempfile.mkdtemp(prefix="lima-chaos-"))
    prepare(place)
    memory.check_fit(recipe.load(words(place, place / "none")), memory.machine())  # measured once for all forks
    expected = {ranks: undisturbed(place, ranks) for ranks in {1, *(fault.ranks for fault in chosen)}}
    started = time.perf_counter()
    for number, fault in enumerate(tqdm(deal(chosen, options.faults), unit="fault")):
        name = f"{options.seed}-{number}"
        seconds, problem = try_push(fault, place, name) if fault.hub else try_once(fault, place, name, expected)
        fault.resumed.append(seconds)
        if problem:
            fault.lost.append(problem)
            tqdm.write(f"LOST · {fault.name} (seed {name}): {problem}; {place / 'log'}")
    print("\n".join(table(chosen)))
    print(f"\n{(time.perf_counter() - started) / 60:.1f} min on {os.cpu_count()} cores")
    if any(fault.lost for fault in chosen):
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
