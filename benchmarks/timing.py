"""What every benchmark here shares: turns that interleave what is compared, and a line about the machine."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Seconds = dict[str, list[float]]


def interleave(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 2) -> tuple[Seconds, Seconds]:
    """Wall and processor seconds of every run, `repeats` turns each, so that a change of load hits them all.

    Processor seconds add up all threads of this process; other people's work on the machine does not enter them.
    """
    wall: Seconds = {name: [] for name in runs}
    cpu: Seconds = {name: [] for name in runs}
    for turn in range(-warm_up, repeats):
        for name, run in runs.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            wait_for_gpu()
            if turn >= 0:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    return wall, cpu


def wait_for_gpu() -> None:
    """Until what was queued on a GPU is done, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Seconds, above: str, below: str) -> float:
    """Median over the turns of seconds(above) / seconds(below)."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def milliseconds(seconds: Seconds) -> dict[str, float]:
    """Median of each run, in ms."""
    return {name: round(1e3 * statistics.median(values), 3) for name, values in seconds.items()}


def copy_bandwidth(megabytes: int = 256) -> float:
    """Bytes read and written per second by a large copy, GB/s: what memory gives to work without reuse."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    wall, _ = interleave({"copy": lambda: target.copy_(source)}, repeats=5)
    return 2 * source.nbytes / min(wall["copy"]) / 1e9


def command(
    description: str | None, repeats: int, measure: Callable[[int], dict[str, object]], figure: str, at_most: float
) -> None:
    """The command line of a benchmark with one target: measure, print as JSON; with --check exit 1 where it is missed.

    Args:
        repeats: turns, unless --repeats says otherwise.
        figure: which of the figures must be at most `at_most`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--check", action="store_true", help="exit 1 when the target is missed")
    arguments = parser.parse_args()
    found = measure(arguments.repeats)
    print(json.dumps(found, indent=1))
    if arguments.check and float(str(found[figure])) > at_most:
        sys.exit(1)


def machine() -> dict[str, str | int]:
    """Processor, threads and version that the figures belong to."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, str | int] = {
        "cpu": names[0] if names else "unknown",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
