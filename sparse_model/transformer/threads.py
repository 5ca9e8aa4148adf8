"""Work on all of torch's threads: NumPy and torch release the interpreter lock, so plain threads run in parallel."""

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


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


def side_by_side(jobs: Sequence[Callable[[], Made]]) -> list[Made]:
    """What each job gives, in order; as many at a time as torch has threads on the CPU, each on one thread.

    Many small operations keep one thread each busy better than all threads share one operation. The first error is
    raised as soon as it happens, as is an interruption; no further job is started then.
    """
    threads = min(torch.get_num_threads(), len(jobs))
    if threads <= 1 or torch.cuda.is_available():
        return [job() for job in jobs]
    waiting: SimpleQueue[int | None] = SimpleQueue()
    for number in [*range(len(jobs)), *[None] * threads]:
        waiting.put(number)
    made: dict[int, Made] = {}
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    stopped = Event()

    def work() -> None:
        torch.set_num_threads(1)  # of this thread alone
        while not stopped.is_set() and (number := waiting.get()) is not None:
            try:
                made[number] = jobs[number]()
                ended.put(None)
            except BaseException as error:
                stopped.set()
                ended.put(error)

    workers = [Thread(target=work, daemon=True) for _ in range(threads)]
    before = torch.get_num_threads()
    try:
        for worker in workers:
            worker.start()
        for _ in jobs:
            error = ended.get()
            if error is not None:
                raise error
    finally:
        stopped.set()
        if len(made) < len(jobs):
            for worker in workers:
                _end(worker)
        for worker in workers:  # a program that ends while torch works in a thread is aborted
            worker.join()
        torch.set_num_threads(before)  # what later threads start with
    return [made[number] for number in range(len(jobs))]


def _end(worker: Thread) -> None:
    """Raise SystemExit in a thread, at its next step in Python."""
    if worker.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(SystemExit))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sparse-model")


if hasattr(os, "register_at_fork"):  # a forked process inherits the pool without its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
