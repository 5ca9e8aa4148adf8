"""Runs of several processes, one after another, as `accelerate launch` starts them: KIND ARGUMENTS of each, as JSON.

The launcher starts new interpreters, three of which import torch for every run. Here they are imported once, by the process
that forks the others; the environment is the one that the launcher's own options make, and torch's elastic agent, on which
the launcher rests, starts and watches them. That the launcher itself works has tests of its own (test_processes.py).
"""

import importlib
import json
import os
import runpy
import sys

import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

IMPORTED = (
    "bridges.training", "bridges.artefact", "bridges.evaluate", "dense_adapters", "sparse_model.training.loop",
    "sparse_model.training.run", "cli.main", "cli.bridge", "transformers.models.gpt2.modeling_gpt2", "torch.distributed.fsdp",
)  # fmt: skip
"""Before the processes fork; none of it starts a thread."""


def work(environment: dict[str, str], arguments: list[str]) -> None:
    """One process of a run: a script, or `-m` and a module, with its arguments."""
    os.environ.update(environment, OMP_NUM_THREADS="1")  # which the agent sets to None
    as_module = arguments[0] == "-m"
    sys.argv = arguments[as_module:]
    try:
        if as_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{arguments} ended with {ended.code}") from ended
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    for number, (kind, arguments) in enumerate(json.loads(sys.argv[1])):
        made = prepare_multi_gpu_env(launch_command_parser().parse_args([*kind, "SCRIPT"]))
        agent = LaunchConfig(
            1, 1, 2, run_id=str(number), rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=0,
            start_method="fork", local_addr="127.0.0.1",
        )  # fmt: skip
        elastic_launch(agent, work)({k: v for k, v in made.items() if os.environ.get(k) != v}, arguments)
