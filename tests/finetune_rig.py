"""Fine-tunings of a second: rows whose labels follow from their words, and tiny models."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from melete import config as configs
from melete.config import RunConfig
from melete.data.labelled.rows import WRITTEN_TASKS
from melete.training import run as runs

FILL = (
    "the",
    "film",
    "was",
    "a",
    "story",
    "with",
    "actors",
    "and",
    "music",
    "in",
    "town",
    "on",
    "that",
    "day",
)
GOOD, BAD = ("wonderful", "charming", "superb", "moving"), ("terrible", "awful", "boring", "dull")
NAMES, PLACES = ("Anna", "Boris", "Clara", "Dan"), ("Berlin", "Paris", "Rome", "Oslo")
DICTIONARY = {"red": "rot", "green": "grün", "blue": "blau", "house": "Haus", "tree": "Baum", "dog": "Hund"}
COLOURS = ("red", "green", "blue", "yellow")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
FAMILY_SIZES = {
    "gpt2": {},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
    "electra": {"embedding_size": 24},
}


def words(draw: random.Random, *own: str) -> list[str]:
    """Some words, and these among them."""
    found = [draw.choice(FILL) for _ in range(draw.randint(3, 12))]
    for word in own:
        found.insert(draw.randrange(len(found) + 1), word)
    return found


def write_rows(folder: Path, task: str, count: int = 240) -> Path:
    """A file of rows for a task."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    if task == "token-classification":
        lines = []
        for _ in range(count):
            own = [draw.choice(NAMES), draw.choice(PLACES)]
            for word in words(draw, *own):
                tag = "B-PER" if word in NAMES else "B-LOC" if word in PLACES else "O"
                lines.append(f"{word} {tag}")
            lines.append("")
        path = folder / "tags.conll"
        path.write_text("\n".join(lines))
        return path
    rows: list[dict[str, Any]] = []
    if task in WRITTEN_TASKS:
        for _ in range(count):
            own = [draw.choice(sorted(DICTIONARY)) for _ in range(draw.randint(1, 2))]
            rows.append({"source": " ".join(own), "target": " ".join(DICTIONARY[word] for word in own)})
        path = folder / f"{task}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        return path
    for i in range(count):
        good = draw.random() < 0.5
        if task == "text-classification":
            own = draw.choice(GOOD if good else BAD)
            rows.append({"text": " ".join(words(draw, own)), "label": "pos" if good else "neg"})
        elif task == "sentence-similarity":
            texts = [" ".join(words(draw, draw.choice(GOOD if good else BAD))) for _ in "ab"]
            rows.append({"text": texts[0], "text_pair": texts[1], "score": 4.0 if good else 1.0})
        else:
            colour = draw.choice(COLOURS)
            context = " ".join(words(draw, colour))
            answer = {"text": colour, "answer_start": context.index(colour)}
            rows.append({"id": str(i), "question": "which colour", "context": context, "answers": [answer]})
    path = folder / f"{task}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def finetune_config(folder: Path, task: str, family: str = "bert", **changes: Any) -> RunConfig:
    """A run of about a second; keys with `__` for the dot."""
    fields: dict[str, Any] = {
        "name": "run",
        "folder": str(folder),
        "objective.name": task,
        "model.source": f"{family}:nano",
        "model.config": SIZES | FAMILY_SIZES.get(family, {}),
        "tokenizer.vocab_size": 400,
        "data.train": [str(write_rows(folder / "data", task))],
        "data.valid_fraction": 0.2,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 3e-3,
        "schedule.name": "linear",
        "training.context": 32,
        "training.device": "cpu",
        "training.precision": "float32",
        "training.threads": 1,
        "guard.sigma": 0.0,
        "finetuning.epochs": 8.0,
        "finetuning.batch_size": 16,
        "evaluation.baseline": False,
    }
    return configs.change(
        RunConfig(), fields | {key.replace("__", "."): value for key, value in changes.items()}
    )


def trained(config: Any, reason: str = "done") -> tuple[Path, dict[str, Any]]:
    """A finished run, and its figures."""
    finished = runs.start(config)
    assert finished.reason == reason
    return finished.folder, runs.score(finished).figures


def stopped_at(folder: Path, step: int, copy: Path) -> Path:
    """A copy of a finished run as it was when it was killed at a step."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "final")
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    (copy / "latest.json").write_text(json.dumps({"checkpoint": f"step-{step:08d}"}))
    return copy
