"""A task in natural language: the verb agrees with the subject, whatever noun stands between them.

    python examples/number_agreement.py agreement                      # writes agreement/pairs.jsonl and agreement/text/
    python examples/number_agreement.py agreement --check $SMOLLM --into docs/natural_language.md

"The key near the cabinets" calls for " is", "The keys near the cabinets" for " are". Sentence frames are dealt to the splits,
so that held-out pairs have frames that no circuit was chosen on. The text is sentences of the same kind, for the
corpus of a bridge: beside ordinary prose it makes sure that the task's words occur. With --check a model is asked.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from sparse_model.studies.page import publish

NOUNS = (
    "key", "book", "dog", "picture", "letter", "car", "teacher", "road", "song", "table", "house", "river", "student",
    "door", "bird", "garden", "window", "boat", "machine", "farmer",
)  # fmt: skip
BETWEEN = ("cabinet", "wall", "friend", "lake", "station", "tree")
FRAMES = {
    "train": (
        "The {subject} near the {other}", "Today the {subject} behind the {other}", "I know that the {subject} by the {other}",
    ),
    "validation": ("We heard that the {subject} from the {other}", "As always, the {subject} beside the {other}"),
    "held_out": ("She says the {subject} next to the {other}", "In the morning the {subject} across from the {other}"),
}  # fmt: skip
ENDS = (" old.", " new.", " here.", " very good.", " not far away.", " known to everyone.")
SINGULAR, PLURAL = " is", " are"


def plural(noun: str) -> str:
    """Of the regular nouns above."""
    return noun + "s"


def pairs() -> Iterator[dict[str, str]]:
    """Every subject in both numbers, with every noun in between, in both numbers too, so that it cannot tell the answer."""
    for split, frames in FRAMES.items():
        for frame, noun, other in itertools.product(frames, NOUNS, BETWEEN):
            between = plural(other) if (NOUNS.index(noun) + BETWEEN.index(other)) % 2 else other
            yield {
                "prompt_a": frame.format(subject=noun, other=between),
                "answer_a": SINGULAR,
                "prompt_b": frame.format(subject=plural(noun), other=between),
                "answer_b": PLURAL,
                "template": frame,
                "split": split,
            }


def documents() -> Iterator[str]:
    """Text of the same kind, one document per subject: every frame but the held-out ones, ended in several ways."""
    frames = [*FRAMES["train"], *FRAMES["validation"]]
    ends = itertools.cycle(ENDS)
    for noun in NOUNS:
        sentences = []
        for frame, other in itertools.product(frames, BETWEEN):
            for subject, verb in ((noun, SINGULAR), (plural(noun), PLURAL)):
                for between in (other, plural(other)):
                    sentences.append(frame.format(subject=subject, other=between) + verb + next(ends))
        yield " ".join(sentences) + "\n"


def write(folder: Path) -> None:
    """The pairs and the text; what is there already is written anew, the same."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs()), encoding="utf-8")
    for noun, document in zip(NOUNS, documents(), strict=True):
        (folder / "text" / f"{noun}.txt").write_text(document, encoding="utf-8")


def checked(file: Path, model: str) -> str:
    """Markdown: how many pairs fit a model's tokenizer, and how well it does the task on each split."""
    from dense_adapters import load_dense
    from sparse_model.tasks import find_task
    from sparse_model.tasks.check import check_task
    from sparse_model.tasks.lint import lint_task

    network, tokenizer = load_dense(model)
    task = find_task(str(file))
    fitting = lint_task(task, tokenizer)
    lines = [
        "| split | pairs | fit the tokenizer | accuracy of 64 | loss of the two answers, nats |",
        "|---|---|---|---|---|",
    ]
    for split, count in fitting.pairs.items():
        found = check_task(network, tokenizer, task, 64, split, 0).to_json()
        accuracy, loss = (
            f"{found[key]['value']:.3f} [{found[key]['low']:.3f}, {found[key]['high']:.3f}]"
            for key in ("accuracy", "task_loss")
        )
        lines.append(f"| {split} | {count} | {fitting.fitting[split]} | {accuracy} | {loss} |")
    return "\n".join(lines)


def main() -> None:
    """Write the data; ask a model where one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where pairs and text are written")
    parser.add_argument("--check", help="a model to ask: Hugging Face id, folder or folder with a .gguf file")
    parser.add_argument("--into", type=Path, help="write between the `agreement` comments of this page")
    arguments = parser.parse_args()
    write(arguments.folder)
    if arguments.check:
        publish(checked(arguments.folder / "pairs.jsonl", arguments.check), "agreement", arguments.into)


if __name__ == "__main__":
    main()
