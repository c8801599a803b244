"""Fine-tuning an encoder beside `transformers.Trainer`: the same folder, rows, epochs, batch, rate and schedule.

python benchmarks/finetuning.py                                     # bert:mini from random weights, on trec
python benchmarks/finetuning.py --model runs/english --data sst2:phrases --rows 4096 --json

All train once for each seed, in turn: ours and `trainer-bf16` in bfloat16, the Trainer's texts padded to the longest of
a batch; `trainer-float32` as its own example for such sets does unless told otherwise, every text padded to 128 tokens.
The clock runs from rows to trained weights, tokenising included; the weights of the last step are scored by the same
code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

import melete
from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.data.labelled.rows import CLASSIFICATION, LabelledRow, TextRow
from melete.data.labelled.sets import LabelledSet, load_labelled
from melete.data.tokenizers import Tokenizer
from melete.evaluation.exams import exam_of
from melete.evaluation.task_scorecard import answer_rows
from melete.machine import keep_freed_memory, usable_cores
from melete.models import build_encoder
from melete.models.checkpoint import locate, save_model
from melete.tasks.labelled import LabelledPredictor
from melete.training.run import start

DECAY, BETAS, CLIP, DROPOUT, WARMUP = 0.01, (0.9, 0.999), 1.0, 0.1, 0.1
VOCABULARY = 8192
EXAMPLE_LENGTH = 128  # of run_glue.py


@dataclass(frozen=True)
class Recipe:
    """What all sides are given.

    Attributes:
        files: folder of the rows, for our own reader.
    """

    model: Path
    files: Path
    rows: LabelledSet
    epochs: int
    batch: int
    rate: float
    context: int

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return self.epochs * -(-len(self.rows.train) // self.batch)


def ours(recipe: Recipe, seed: int, folder: Path) -> Path:
    """Melete's run; the folder of its weights."""
    config = configs.change(
        RunConfig(),
        {
            "name": "ours",
            "folder": str(folder),
            "seed": seed,
            "model.source": str(recipe.model),
            "data.train": [str(recipe.files / "train.jsonl")],
            "data.valid": [str(recipe.files / "valid.jsonl")],
            "evaluation.baseline": False,
            "objective.name": CLASSIFICATION,
            "optimizer.name": "adamw",
            "optimizer.learning_rate": recipe.rate,
            "optimizer.weight_decay": DECAY,
            "optimizer.betas": BETAS,
            "schedule.name": "linear",
            "schedule.warmup_steps": round(WARMUP * recipe.steps),
            "training.context": recipe.context,
            "training.precision": "bfloat16",
            "training.device": "cpu",
            "training.clip_norm": CLIP,
            "training.eval_every": 0,
            "training.prompts": [],
            "guard.sigma": 0.0,
            "finetuning.epochs": float(recipe.epochs),
            "finetuning.batch_size": recipe.batch,
            "finetuning.dropout": DROPOUT,
        },
    )
    return start(config).folder / "final"


def peer(recipe: Recipe, seed: int, folder: Path, narrow: bool) -> Path:
    """The Trainer's run; the folder of its weights.

    Args:
        narrow: in bfloat16, padded to the longest of a batch; otherwise in float32, padded to `EXAMPLE_LENGTH`.
    """
    transformers.set_seed(seed)  # the new head is drawn from it
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(recipe.model)
    names = dict(enumerate(recipe.rows.labels))
    numbers = {name: i for i, name in names.items()}
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        recipe.model, id2label=names, label2id=numbers, classifier_dropout=DROPOUT
    )
    rows = [row for row in recipe.rows.train if isinstance(row, TextRow)]
    pairs = [row.text_pair or "" for row in rows] if rows[0].text_pair else None
    encoded = tokenizer(
        [row.text for row in rows],
        pairs,
        truncation=True,
        max_length=recipe.context if narrow else EXAMPLE_LENGTH,
        padding=False if narrow else "max_length",
    )
    examples = [
        {**{name: column[i] for name, column in encoded.items()}, "labels": numbers[row.classes[0]]}
        for i, row in enumerate(rows)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "peer"),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.rate,
        weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        lr_scheduler_type="linear",
        warmup_steps=round(WARMUP * recipe.steps),
        bf16=narrow,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    collator = transformers.DataCollatorWithPadding(tokenizer)
    trainer: Any = transformers.Trainer(model, arguments, collator, examples)  # pyright: ignore[reportArgumentType]
    trainer.train()
    model.save_pretrained(folder / "peer")
    tokenizer.save_pretrained(folder / "peer")
    return folder / "peer"


SIDES: dict[str, Callable[[Recipe, int, Path], Path]] = {
    "melete": ours,
    "trainer-bf16": partial(peer, narrow=True),
    "trainer-float32": partial(peer, narrow=False),
}


def compare(recipe: Recipe, seeds: int) -> dict[str, Any]:
    """All sides with each seed: main figures, seconds, and what they come to."""
    exam = exam_of(CLASSIFICATION, recipe.rows.valid, recipe.rows.labels)
    scores: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in sorted(SIDES, reverse=seed % 2 == 1):  # none always goes first
            with tempfile.TemporaryDirectory() as scratch:
                begun = time.perf_counter()
                folder = SIDES[side](recipe, seed, Path(scratch))
                seconds[side].append(time.perf_counter() - begun)
                predictor: LabelledPredictor = melete.load(str(folder))
                marks = exam.mark(answer_rows(predictor, recipe.rows.valid))
            scores[side].append(exam.figures(marks)[exam.main])
            say(f"seed {seed}, {side}: {exam.main} {scores[side][-1]:.4f}, {seconds[side][-1]:.1f} s")
    means = {side: statistics.fmean(values) for side, values in scores.items()}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    # Two standard errors of the difference of two means.
    errors = {
        side: statistics.variance(values) / seeds if seeds > 1 else 0.0 for side, values in scores.items()
    }
    return {
        "rows": len(recipe.rows.train),
        "metric": exam.main,
        "steps": recipe.steps,
        "scores": scores,
        "seconds": seconds,
        "beside": {
            side: {
                "time": medians["melete"] / medians[side],
                "difference": means["melete"] - means[side],
                "noise": 2 * (errors["melete"] + errors[side]) ** 0.5,
            }
            for side in SIDES
            if side != "melete"
        },
    }


def write(rows: Sequence[LabelledRow], file: Path) -> None:
    """Rows as a file."""
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            assert isinstance(row, TextRow)
            pair = {"text_pair": row.text_pair} if row.text_pair else {}
            out.write(json.dumps({"text": row.text, **pair, "label": row.classes[0]}) + "\n")


def random_folder(rows: LabelledSet, preset: str, context: int, folder: Path) -> Path:
    """A model that has read nothing, with a tokenizer of the rows."""
    texts = (text for row in rows.train for text in row.texts)
    tokenizer = Tokenizer.train(texts, "wordpiece", VOCABULARY)
    tokenizer.save(folder)
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": max(context, EXAMPLE_LENGTH),
        "hidden_dropout": DROPOUT,
    }
    save_model(folder, build_encoder(f"bert:{preset}", seed=0, **sizes), tokenizer=folder)
    return folder


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a run or a folder; default: --preset, from random weights")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--data", default="trec")
    parser.add_argument("--rows", type=int, help="some of the training rows; default: all")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    keep_freed_memory()  # for all sides
    torch.set_num_threads(usable_cores())
    say(
        f"{platform.system()} {platform.machine()}, {usable_cores()} threads, torch {torch.__version__}, "
        f"transformers {version('transformers')}"
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    rows = load_labelled(asked.data, CLASSIFICATION)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = (
            locate(asked.model) if asked.model else random_folder(rows, asked.preset, asked.context, folder)
        )
        if asked.rows:
            rows = replace(rows, train=random.Random(0).sample(rows.train, asked.rows))
        write(rows.train, folder / "train.jsonl")
        write(rows.valid, folder / "valid.jsonl")
        sizes = asked.epochs, asked.batch, asked.rate, asked.context
        figures = compare(Recipe(model, folder, rows, *sizes), asked.seeds)
    if asked.json:
        print(json.dumps(figures))
        return
    print(f"{figures['rows']:,} rows, {figures['steps']} steps, {asked.seeds} seeds, {figures['metric']}")
    for side, beside in figures["beside"].items():
        print(
            f"beside {side}: {beside['time']:.2f} of its time, {beside['difference']:+.4f} to its score "
            f"(noise {beside['noise']:.4f})"
        )


if __name__ == "__main__":
    main()
