"""Jobs in a few processes, with one progress bar by bytes."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from lima import UserError

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


def _start(counter):
    global _bytes
    _bytes = counter


def _run(work, job):
    work(*job, _tick)


def _tick(count):
    with _bytes.get_lock():
        _bytes.value += count
