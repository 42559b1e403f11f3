"""Verifies and pushes one checkpoint of a run that still trains; `--push_each_epoch` starts it in the background.

    python -m lima.publish.each_epoch --run runs/7b --checkpoint checkpoint-160 --epoch 10 --hub org/name|dir:PATH

One at a time a run. It cannot touch the training; what it said is in runs/NAME/logs/push.log.
"""

import argparse
import fcntl
import sys
import time
from pathlib import Path

from lima import exit_codes
from lima.publish import push, verify


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "checkpoint", "epoch", "hub"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args(argv)
    with open(Path(args.run) / ".pushing", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(f"\n==== {time.strftime('%F %T')} · {args.run}/{args.checkpoint} → {args.hub}", flush=True)
        verify.main(["--run", f"{args.run}/{args.checkpoint}"])
        push.main(["--run", args.run, "--hub", args.hub, "--epochs", args.epoch, "--while_training"])


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
