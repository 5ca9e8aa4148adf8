"""Stopping a run from outside: SIGTERM and Ctrl-C ask, the loop saves and stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

AGREE_EVERY = 5
"""Steps between agreements of several processes; one process looks after every step."""


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT interrupts at once. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agree_to_stop(stop: threading.Event, accelerator: Accelerator, done: int) -> bool:
    """Whether to stop after `done` steps: a signal reaches several processes at different steps, and all must save one."""
    if accelerator.num_processes == 1:
        return stop.is_set()
    if done % AGREE_EVERY:
        return False
    asked = torch.tensor(float(stop.is_set()), device=accelerator.device)
    return bool(accelerator.reduce(asked, "sum") > 0)
