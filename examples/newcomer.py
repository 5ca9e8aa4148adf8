"""A newcomer's path: a task, text and a model of one's own, from nothing to a report, in a few minutes on two cores.

    python examples/newcomer.py [FOLDER]

100 pairs in a JSONL file, 35 text files, a data set from `save_to_disk`, and a tiny Qwen3 with its own tokenizer. The model is
random at first: the whole job refuses it and says why. Trained for a moment, it is explained. Wrong turns on the way must be
answered with what to do. Ends with exit code 0 if every step did what is said here.
"""

import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from cli.main import run
from sparse_model.corpus.tokenizer import train_tokenizer

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "June")
DAYS = ("Monday", "Tuesday", "Friday", "Sunday", "Easter", "today", "tonight", "later", "soon", "again")
RULE = {" left": " west", " right": " east"}
"""The word that decides, and the word it calls for."""


STEPS = 120
"""Of training, far fewer than would be chosen: enough for a rule as plain as this one."""


def sentence(word: str, name: str, day: str, answer: str = "") -> str:
    """One prompt, with its answer where that is given."""
    return f"The arrow points{word}, says {name} {day}, so we walk{answer}"


def answered() -> list[str]:
    """Every prompt with its answer."""
    return [sentence(word, *who, RULE[word]) for who in itertools.product(NAMES, DAYS) for word in RULE]


def write_data(folder: Path) -> None:
    """The pairs, 35 text files and a saved data set."""
    (one, first), (other, second) = RULE.items()
    pairs = [
        {
            "prompt_a": sentence(one, name, day), "answer_a": first,
            "prompt_b": sentence(other, name, day), "answer_b": second,
        }
        for name, day in itertools.product(NAMES, DAYS)
    ]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    texts = [
        sentence(word, name, day, answer) + "."
        for name, day, (word, answer) in itertools.product(NAMES, DAYS, RULE.items())
    ]
    (folder / "texts").mkdir()
    for number in range(35):
        (folder / "texts" / f"{number}.txt").write_text("\n".join(texts[number::7][:20]))
    datasets.Dataset.from_dict({"body": [" ".join(texts[n::40]) for n in range(40)]}).save_to_disk(
        str(folder / "saved")
    )


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer learned from the text files."""
    return train_tokenizer((path.read_text() for path in sorted((folder / "texts").iterdir())), 400)


def make_model(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A random Qwen3 of two layers."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def teach(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, steps: int = 300) -> None:
    """Train the model on the rule's own sentences."""
    rows = [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in answered()]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(tokens), (32,), generator=generator)
        optimizer.zero_grad()
        model(tokens[chosen], labels=labels[chosen]).loss.backward()
        optimizer.step()
    model.eval()


def call(*words: str | Path | int, codes: tuple[int, ...] = (0,), says: str = "") -> None:
    """Run one command line; it must end with one of `codes` and say `says`."""
    line = [str(word) for word in words]
    print("\n$ sparsebridge", *line, flush=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = run(line)
    print(printed.getvalue(), end="", flush=True)
    if code not in codes or says not in printed.getvalue():
        sys.exit(f"expected exit code {' or '.join(map(str, codes))} and {says!r}, got {code}")


def main(folder: Path) -> None:
    """The path, with its wrong turns."""
    write_data(folder)
    tokenizer = make_tokenizer(folder)
    model, dense = make_model(tokenizer), folder / "dense"
    for part in (tokenizer, model):
        part.save_pretrained(dense)
    pairs, texts, saved = folder / "pairs.jsonl", folder / "texts", folder / "saved"
    sources = ("--source", texts, "--source", saved, "--text-field", "body")

    print("== Wrong turns are answered with what to do")
    call("explian", codes=(2,), says="did you mean 'sparsebridge explain'")
    few = folder / "few.jsonl"
    few.write_text("".join(pairs.read_text().splitlines(keepends=True)[:8]))
    job = ("--steps", STEPS, "--out", folder / "explained")
    call("explain", dense, "--task", few, *sources, *job, codes=(2,), says="give at least 16 lines")
    call("explain", dense, "--task", pairs, "--source", texts / "0.txt", *job, codes=(2,), says="give its folder")
    call("explain", dense, "--task", pairs, *sources, *job, codes=(2,), says="choose a task it does")

    print("== A model that does the task, in one command")
    teach(model, tokenizer)
    model.save_pretrained(dense)
    call("task", "lint", pairs, "--model", dense)
    unnamed = ("--source", saved, "--out", folder / "unnamed")
    call("explain", dense, "--task", pairs, *unnamed, codes=(2,), says="--text-field")
    call("explain", dense, "--task", pairs, *sources, *job, codes=(0, 1), says="report written")
    call(
        "explain", dense, "--task", pairs, *sources, *job, codes=(0, 1), says="report written"
    )  # nothing is done again

    print("== On from there")
    explained = folder / "explained"
    circuit, bridge = explained / "circuit", explained / "bridge"
    call("circuit", "show", circuit, "--model", bridge)
    call(
        "edit",
        "map",
        circuit,
        "--bridge",
        bridge,
        "--corpus",
        explained / "corpus",
        "--out",
        folder / "edit",
        "--blocks",
        "4",
    )
    call(
        "edit",
        "apply",
        folder / "edit",
        "--dense",
        dense,
        "--prompt",
        sentence(" left", "Ada", "today"),
        "--tokens",
        "2",
    )
    call("report", explained / "report", "--out", folder / "page.html")
    print(f"\nThe report is {explained / 'report' / 'report.html'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place = Path(sys.argv[1])
        place.mkdir(parents=True)
        main(place)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
