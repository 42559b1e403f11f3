"""Host memory on CPU: kept within a step (getting it back takes a third of its time), given back between steps."""

import ctypes
import sys

from transformers import TrainerCallback

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def _glibc():
    try:
        return ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None
    except OSError:  # musl
        return None


def keep_freed_memory():
    """No `mmap` for large blocks, no return of the heap's top: faster steps on CPU (docs/LOG.md). glibc only."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class GiveBack(TrainerCallback):
    """Returns what a step left over: within a step memory is kept, from step to step it does not pile up."""

    def on_step_end(self, args, state, control, **kwargs):
        if libc := _glibc():
            libc.malloc_trim(0)

    on_evaluate = on_step_end
