"""Keeps freed host memory in the process: on CPU a training step spends a third of its time getting it back."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory():
    """No `mmap` for large blocks, no return of the heap's top: 1.6 × the tokens/s on 2 cores (docs/LOG.md). glibc only."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        except (OSError, AttributeError):  # musl
            pass
