"""Ways for a training to die, each done to the real trainer from inside its own process. Used by `chaos.py`.

A fault is a function of the process's `random.Random` that arranges for trouble and returns; it runs after the imports and
before `lima_sft.main`. Steps are counted from the start of the run, saves from that of the process.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

STEPS, SAVES = 12, 4  # of a run in `chaos.py`


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def at_step(number, act):
    """Does `act` at the end of a step, before anything of it is saved."""
    from lima.train import stopping

    before = stopping.StopWhenTold.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == number:
            act()
        return before(self, args, state, control, **kwargs)

    stopping.StopWhenTold.on_step_end = on_step_end


def at_first_step(clock):
    """Writes the time of the first step's end to a file."""
    from lima.train import stopping

    before = stopping.StopWhenTold.on_step_end

    def on_step_end(*args, **kwargs):
        if not clock.exists():
            clock.write_text(str(time.time()))
        return before(*args, **kwargs)

    stopping.StopWhenTold.on_step_end = on_step_end


def kill_at_a_step(random):
    at_step(random.randint(1, STEPS), die)


def kill_at_a_moment(random):
    threading.Timer(random.uniform(0, 4), die).start()


def told_to_stop(random):
    number = random.choice([signal.SIGTERM, signal.SIGUSR1])
    at_step(random.randint(1, STEPS - 1), lambda: os.kill(os.getpid(), number))


def _around(module, name, call, act):
    """Replaces `module.name` so that its `call`-th call is `act(original, *arguments)`."""
    original, count = getattr(module, name), [0]

    def replaced(*args, **kwargs):
        count[0] += 1
        return act(original, *args, **kwargs) if count[0] == call else original(*args, **kwargs)

    setattr(module, name, replaced)


def kill_before_a_save(random):
    from lima.train import checkpoints

    _around(checkpoints, "save", random.randint(1, SAVES), lambda *args: die())


def kill_in_the_weights(random):
    from transformers import modeling_utils

    _around(modeling_utils, "safe_save_file", random.randint(1, SAVES), _half_then_die(random))


def kill_in_the_optimiser(random):
    _when_saving("optimizer.pt", random)


def kill_in_the_random_state(random):
    _when_saving("rng_state.pth", random)


def _when_saving(name, random):
    import torch

    original, left, half = torch.save, [random.randint(1, SAVES)], _half_then_die(random)

    def save(content, path, *args, **kwargs):
        left[0] -= Path(str(path)).name == name
        if left[0] == 0 and Path(str(path)).name == name:
            half(original, content, path)
        return original(content, path, *args, **kwargs)

    torch.save = save


def _half_then_die(random):
    share = random.random()

    def half(original, content, path, *args, **kwargs):
        original(content, path, *args, **kwargs)
        os.truncate(path, int(share * os.path.getsize(path)))
        die()

    return half


def kill_before_the_marker(random):
    from lima.train import checkpoints

    number = random.randint(1, SAVES)
    _around(checkpoints, "_digests", number, lambda original, *args: (original(*args), die()))


def kill_between_marker_and_rename(random):
    _at_rename(random, lambda replace, *paths: die())


def kill_after_the_rename(random):
    _at_rename(random, lambda replace, *paths: (replace(*paths), die()))


def _at_rename(random, act):
    original, left = os.replace, [random.randint(1, SAVES)]

    def replace(source, target):
        saved = Path(source).parent.name == "saving"
        left[0] -= saved
        return act(original, source, target) if saved and left[0] == 0 else original(source, target)

    os.replace = replace


def kill_while_thinning(random):
    from lima.train import checkpoints

    name = random.choice(["forget", "_remove"])
    step = {"forget": lambda original, files: (files[0].unlink(), die()), "_remove": _half_removed}[name]
    _around(checkpoints, name, 1, step)


def _half_removed(original, folder):
    saving = folder.parent / "saving"
    saving.mkdir(exist_ok=True)
    os.replace(folder, saving / folder.name)
    next((saving / folder.name).glob("*.safetensors")).unlink()
    die()


def disk_that_fills(random, run=None):
    """The run lies on a small file system of its own; a file leaves too little of it for the next save."""
    from lima.train import checkpoints

    share = random.uniform(0.05, 0.9)

    def fill(save, *args):
        size = sum(path.stat().st_size for path in max(Path(run).glob("checkpoint-*"), key=os.path.getmtime).iterdir())
        free = os.statvfs(run).f_bavail * os.statvfs(run).f_frsize
        with open(f"{run}/filler", "wb") as file:
            file.write(bytes(free - int(share * size)))
        return save(*args)

    _around(checkpoints, "save", random.randint(2, SAVES), fill)


def disk_that_turns_read_only(random, run=None):
    at_step(random.randint(1, STEPS - 1), lambda: subprocess.run(["mount", "-o", "remount,ro", run], check=True))


# ---- Weights & Biases, on this machine -------------------------------------------------------------------------------


def wandb_that_nobody_answers(random):
    _wandb_at("http://127.0.0.1:9")


def wandb_that_is_slow(random):
    _wandb().slow = random.uniform(0.5, 3)


def wandb_that_fails(random):
    server = _wandb()
    at_step(random.randint(1, STEPS), lambda: setattr(server, "broken", True))


def _wandb():
    import sys

    sys.path.insert(0, "tests")
    from servers.wandb import Wandb

    server = Wandb()
    server.start()
    _wandb_at(server.url, **server.env)
    return server


def _wandb_at(url, **more):
    os.environ.update({"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", **more, "WANDB_BASE_URL": url})


# ---- a push to a Hub on this machine ---------------------------------------------------------------------------------


def hub_that_fails(server, random, start):
    """At one of a push's stages, for good; returns the push's pid."""
    stages = [
        ("whoami", 500),
        ("create", 500),
        ("preupload", 400),
        ("batch", 400),
        ("put", 400),
        ("commit", 500),
        ("commit", "cut"),
    ]
    kind, how = random.choice(stages)
    server.fail(kind, how, times=50)
    return start(server)


def push_that_is_killed(server, random, start):
    """After so many bytes have come; returns its pid."""
    server.slow = 0.01
    pid, enough = start(server), random.randrange(2**19, 2**22)
    while server.received < enough:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    server.slow = 0
    return pid


# ---- what happens to a checkpoint that was whole ---------------------------------------------------------------------


def truncate_a_file(checkpoint, random):
    path = _any_file(checkpoint, random)
    os.truncate(path, random.randrange(path.stat().st_size))


def flip_a_bit(checkpoint, random):
    path = _any_file(checkpoint, random)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def lose_a_file(checkpoint, random):
    _any_file(checkpoint, random).unlink()


def _any_file(checkpoint, random):
    return random.choice(sorted(p for p in checkpoint.iterdir() if p.is_file() and p.stat().st_size))
