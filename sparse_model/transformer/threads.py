"""NumPy work on all of torch's threads: its loops release the interpreter lock, so plain threads run them in parallel."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")


def each(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do `work` on every item, on as many threads as torch uses; the first error is raised.

    `work` must not call `each` itself.
    """
    items, threads = list(items), torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            work(item)
    else:
        list(_pool(threads).map(work, items))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sparse-model")


if hasattr(os, "register_at_fork"):  # a forked process inherits the pool without its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
