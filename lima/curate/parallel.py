"""Jobs in a few processes, with one progress bar by bytes; and a site's each, whose parts become one step."""

import multiprocessing
import shutil
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from lima import UserError
from lima.curate import ledger

_bytes = None  # in a worker: the counter that it shares with the bar


def run(work, jobs, sizes, processes):
    """`work(*job, tick)` for every job, the largest first, `processes` at a time; `tick(bytes)` moves the bar.

    Ends with the first error, once the jobs that run have ended. One process runs them here.
    """
    from tqdm import tqdm

    order = sorted(range(len(jobs)), key=lambda i: -sizes[i])
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, disable=None, leave=False) as bar:
        if min(processes, len(jobs)) == 1:
            for i in order:
                work(*jobs[i], bar.update)
            return
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        with ProcessPoolExecutor(processes, context, _start, (counter,)) as pool:
            waiting = {pool.submit(_run, work, jobs[i]) for i in order}
            try:
                while waiting:
                    ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    bar.update(counter.value - bar.n)
                    for future in ended:
                        future.result()
            except BrokenProcessPool:
                raise UserError("a process of this step was ended from outside (memory?); give --processes 1") from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def by_site(work, jobs, sizes, processes, out, rules, inputs, left):
    """`run` over jobs that end on the folder of a site's finished step under `out`/.sites; joins these in `out`, in the order of
    `jobs`, with the sites `left` out in its notes, and returns the counts by rule."""
    run(work, jobs, sizes, processes)
    with ledger.Step(out, rules, inputs) as step:
        step.notes.update(sites={}, left_out=left)
        for *_, part in jobs:
            step.add(part)
            step.notes["sites"][part.name] = ledger.record(part)["notes"]
    shutil.rmtree(out / ".sites", ignore_errors=True)
    return step.counts


def show_settings(rules):
    """Prints the settings of a step, long lists by their length."""
    for key, value in rules.items():
        print(f"  {key}: {f'{len(value)} patterns' if len(str(value)) > 100 else value}")


def _start(counter):
    global _bytes
    _bytes = counter


def _run(work, job):
    work(*job, _tick)


def _tick(count):
    with _bytes.get_lock():
        _bytes.value += count
