"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks in the process; True if it agreed. Other allocators are left alone.

    Training frees and takes the same large blocks at every step. glibc gives them back to the system at once, and the
    next use of each page is then a page fault. Measured on 2 cores, 6 layers x 384, bfloat16: 3,700 tokens/s with
    glibc's defaults, 6,300 with these (2026-11-22).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has no mallopt
        return False
    largest = 2**31 - 1
    asked = ((_M_MMAP_THRESHOLD, largest), (_M_TRIM_THRESHOLD, largest), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in asked)
