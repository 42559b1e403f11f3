"""Starts a recipe on the GPUs of one node or many: torchrun on every node, and one clear line when a rank fails.

  python -m lima.train.launch --config recipes/65b.yaml --gpus 8                       one node
  … --nodes 4 --gpus 8 --node-rank 0 --master-addr node-a                              on every node, each with its rank
  … --gpus 8 --hostfile launch/hostfile.example                                        from one node, by ssh to all

Every rank writes to runs/NAME/logs/rank-RR.log. `make sft-NAME NODES=… GPUS=…` calls this; docs/scale.md says more.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import time

from lima import UserError, exit_codes, recipe, runs
from lima.train import hosts, ranks
from lima.train.nodes import Watch

SCRIPT = "lima_sft.py"
LATER = {"lost": 1, "stopped": 2}  # a rank that lost another, or was stopped for its sake, did not fail first


def arguments(argv):
    """`(place, words)`: where to run, and what is left for the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m lima.train.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--gpus", type=int, help="ranks on every node [the GPUs of this one; 1 without]")
    parser.add_argument("--nodes", type=int, default=1, help="nodes in all [1, or all of the hostfile]")
    parser.add_argument("--node-rank", type=int, help="which of them this one is, from 0")
    parser.add_argument("--master-addr", help="address of node 0, which all nodes can reach")
    parser.add_argument("--master-port", type=int, default=29500, help="a free port there [29500]")
    parser.add_argument("--join-timeout", type=int, default=600, help="seconds to wait for all nodes [600]")
    parser.add_argument("--hostfile", help="`host slots=8` a line: start all of them from here, by ssh")
    return parser.parse_known_args(argv)


def check(place, args):
    """Raises `UserError` for what can be known to be wrong before any rank starts."""
    import torch

    present = torch.cuda.device_count()
    place.gpus = place.gpus or present or 1
    if place.nodes < 1 or place.gpus < 1:
        raise UserError(f"NODES={place.nodes} GPUS={place.gpus}: both must be 1 or more")
    if place.nodes > 1 and not place.hostfile and (place.node_rank is None or not place.master_addr):
        raise UserError(
            f"NODES={place.nodes}: every node needs its own NODE_RANK=0…{place.nodes - 1} and the same MASTER_ADDR (of node "
            "0); or start all from one with HOSTFILE=…, or by launch/slurm.sbatch"
        )
    place.node_rank = place.node_rank or 0
    if not 0 <= place.node_rank < place.nodes:
        raise UserError(f"NODE_RANK={place.node_rank}: expected 0 to {place.nodes - 1} for NODES={place.nodes}")
    if present and place.gpus > present:
        raise UserError(f"GPUS={place.gpus}, but this machine ({socket.gethostname()}) has {present}")
    total = place.nodes * place.gpus
    if total > args.global_batch_size:
        raise UserError(
            f"{place.nodes} × {place.gpus} = {total} ranks cannot share the {args.global_batch_size} examples of a step "
            f"(global_batch_size); use {args.global_batch_size} at most"
        )
    if not present:
        _fits_without_gpus(place, args)
    if place.master_addr:
        hosts.resolve(place.master_addr, "MASTER_ADDR")


def _fits_without_gpus(place, args):
    from lima.train import memory

    memory.check_fit(args, memory.Machine(place.nodes * place.gpus, None, memory.host_memory() // place.gpus))
    if place.gpus > 1 and not args.use_cpu:
        raise UserError(
            f"GPUS={place.gpus}, but PyTorch sees no GPU on {socket.gethostname()} (`nvidia-smi` says whether there is one); "
            "for ranks on CPU: ARGS='--use_cpu true'"
        )


def announce(place, args):
    """What is started where, and what of the network NCCL will find."""
    total = place.nodes * place.gpus
    shared = f"{place.nodes} nodes × {place.gpus} = " if place.nodes > 1 else ""
    print(f"\nlaunch · {args.run_name} · {shared}{total} ranks")
    print(f"  logs     {ranks.log_file(args.output_dir, 0)} … rank-{total - 1:02d}.log, on the node of each rank")
    if place.nodes > 1:
        print(
            f"  meet     {place.master_addr}:{place.master_port} · this is node {place.node_rank} of 0…{place.nodes - 1}"
        )
        print(f"           waiting for all of them, {place.join_timeout} s at most")
        for topic, text in hosts.network():
            print(f"  {topic:<8} {text}")
    sys.stdout.flush()


def run_node(place, args, words):
    """Runs this node's ranks to their end. Returns the exit code; what went wrong is printed, once."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's report of a failure: ours is one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // place.gpus)))
    where = ["--standalone"]
    if place.nodes > 1:
        where = ["--nnodes", place.nodes, "--node-rank", place.node_rank, "--master-addr", place.master_addr,
                 "--master-port", place.master_port, "--rdzv-conf", f"timeout={place.join_timeout}"]  # fmt: skip
    options = [*where, "--nproc-per-node", place.gpus, "--max-restarts", 0, "--shutdown-timeout", 5,
               "--signals-to-handle", "SIGHUP,SIGQUIT"]  # fmt: skip
    watch = _watch(place, words) if place.nodes > 1 else None
    told = _pass_on_signals()
    try:
        torchrun.run(torchrun.parse_args([str(word) for word in [*options, SCRIPT, *words]]))
        return 130 if signal.SIGINT in told else 0
    except ChildFailedError as error:
        if told and {failure.exitcode for failure in error.failures.values()} <= {-signal.SIGUSR1, -signal.SIGTERM}:
            print("stopped before the first step; what was complete on disk stands", file=sys.stderr)
            return 130 if signal.SIGINT in told else 0
        return _say_failure(error, place, args, watch)
    except SignalException as error:
        if watch and watch.cause:
            return _say(watch.cause, 1)
        return 130 if error.sigval == signal.SIGINT else 128 + error.sigval
    except Exception as error:
        missing = watch.missing() if watch else []
        if not missing:
            raise
        absent = ", ".join(map(str, missing))
        return _say(f"not all nodes came within {place.join_timeout} s; not heard of: node {absent} ({error})", 1)
    finally:
        if watch:
            watch.close()


def _pass_on_signals():
    """A signal that asks this launcher to stop asks the ranks to save and stop; see `ranks.when_told_to_stop`.

    Torchrun alone would stop the ranks within seconds, amid a save.
    """
    import psutil
    from torch.distributed.elastic.multiprocessing import SignalException

    def pass_on(number):
        if number == signal.SIGINT:
            os.write(2, b"\nCtrl-C: the ranks save at the end of this step; again to stop at once\n")
        for process in psutil.Process().children():
            process.send_signal(signal.SIGUSR1)

    return ranks.when_told_to_stop(pass_on, SignalException("Ctrl-C again", sigval=signal.SIGINT))


def _watch(place, words):
    """Stops this node's ranks when another node fails; ends the launcher itself where torchrun does not come back."""

    def stop(cause):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(20)
        os._exit(_say(cause, 1))

    same = {"the commit": runs.git_commit(), **runs.versions(), "the command": " ".join(words)}
    return Watch(place.node_rank, place.nodes, place.master_addr, place.master_port, same, stop)


def _say_failure(error, place, args, watch):
    rank, word = first_failure(error.failures)
    if watch and word["kind"] == "lost":
        cause = watch.first_cause(5)
        if cause:
            return _say(cause, 1)
    cause = f"rank {rank} on {socket.gethostname()}: {word['message']}"
    if watch:
        cause = watch.fail(cause)
    code = 2 if word["kind"] == "mend" else 1
    first = _word(error.failures[0]) if 0 in error.failures else {"kind": "lost"}
    if first["kind"] in ("mend", "broke") and first["message"] == word["message"]:
        return code  # the first rank has said so on the terminal
    log = ranks.log_file(args.output_dir, rank)
    return _say(f"{cause}; its log: {log}", code)


def first_failure(failures):
    """`(rank, {"kind", "message"})` of the rank that failed first, of torchrun's `{rank: ProcessFailure}`.

    Those that were stopped because of it, or lost contact with it, come last.
    """

    words = {rank: _word(failure) for rank, failure in failures.items()}
    rank = min(words, key=lambda rank: (LATER.get(words[rank]["kind"], 0), words[rank]["at"]))
    return rank, words[rank]


def _word(failure):
    """What a rank wrote by way of `ranks.failures_recorded`, or what its end tells."""
    word = failure.error_file_data.get("message")
    if isinstance(word, dict) and "kind" in word:
        return word
    if failure.exitcode == -signal.SIGTERM:
        return {"kind": "stopped", "message": "was stopped", "at": failure.timestamp}
    text = f"ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        text = f"was killed ({failure.signal_name()})"
    if failure.exitcode == -signal.SIGKILL:
        text += ", perhaps by the kernel for want of host memory (`dmesg`)"
    return {"kind": "killed", "message": text, "at": failure.timestamp}


def _say(line, code):
    print(f"\nerror: {line}", file=sys.stderr, flush=True)
    return code


def main(argv):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # launch/slurm.sbatch has make ignore it, so that it waits for us
    place, words = arguments(argv)
    args = recipe.load(words)
    if place.hostfile:
        place.hosts = hosts.read(place)
    check(place, args)
    if place.hostfile:
        return hosts.run_all(place, args, words)
    if place.nodes * place.gpus == 1 and not args.deepspeed:
        os.execv(sys.executable, [sys.executable, SCRIPT, *words])
    announce(place, args)
    return run_node(place, args, words)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
