"""Fine-tuning BERT beside `transformers.Trainer`: the same folder, rows, epochs, batch, learning rate and schedule.

python benchmarks/finetuning.py                                     # bert:mini from random weights, on trec
python benchmarks/finetuning.py --model runs/sst2-pretrain --data sst2 --epochs 3 --json

Both train in bfloat16, once for each seed, in turn; the Trainer pads the texts of a random batch to the longest, as it
does unless told otherwise. The clock runs from rows to trained weights, tokenising included; both weights, those of the
last step, are scored by the same code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import melete
from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.data.labelled.rows import CLASSIFICATION, TextRow
from melete.data.labelled.sets import VALID_FRACTION, LabelledSet, load_labelled
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


@dataclass(frozen=True)
class Recipe:
    """What both sides are given."""

    model: Path
    data: str
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
            "data.train": [recipe.data],
            "data.valid_fraction": VALID_FRACTION,
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


def peer(recipe: Recipe, seed: int, folder: Path) -> Path:
    """The Trainer's run; the folder of its weights."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        logging,
        set_seed,
    )

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(seed)  # the new head is drawn from it
    tokenizer = AutoTokenizer.from_pretrained(recipe.model)
    names = dict(enumerate(recipe.rows.labels))
    numbers = {name: i for i, name in names.items()}
    model = AutoModelForSequenceClassification.from_pretrained(
        recipe.model, id2label=names, label2id=numbers, classifier_dropout=DROPOUT
    )
    examples = []
    for row in recipe.rows.train:
        assert isinstance(row, TextRow)
        encoded = tokenizer(row.text, row.text_pair, truncation=True, max_length=recipe.context)
        examples.append({**encoded, "labels": numbers[row.classes[0]]})
    arguments = TrainingArguments(
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
        bf16=True,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), examples)
    trainer.train()
    model.save_pretrained(folder / "peer")
    tokenizer.save_pretrained(folder / "peer")
    return folder / "peer"


SIDES: dict[str, Callable[[Recipe, int, Path], Path]] = {"melete": ours, "transformers": peer}


def compare(recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Both sides with each seed: main figures, seconds, and what they come to."""
    exam = exam_of(CLASSIFICATION, recipe.rows.valid, recipe.rows.labels)
    scores: dict[str, list[float]] = {side: [] for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in sorted(SIDES, reverse=seed % 2 == 1):  # neither always goes first
            with tempfile.TemporaryDirectory() as scratch:
                begun = time.perf_counter()
                folder = SIDES[side](recipe, seed, Path(scratch))
                seconds[side].append(time.perf_counter() - begun)
                predictor: LabelledPredictor = melete.load(str(folder))
                marks = exam.mark(answer_rows(predictor, recipe.rows.valid))
            scores[side].append(exam.figures(marks)[exam.main])
            say(f"seed {seed}, {side}: {exam.main} {scores[side][-1]:.4f}, {seconds[side][-1]:.1f} s")
    means = {side: statistics.fmean(values) for side, values in scores.items()}
    # Two standard errors of the difference of two means.
    noise = (
        2 * sum(statistics.variance(values) / seeds for values in scores.values()) ** 0.5
        if seeds > 1
        else None
    )
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return {
        "data": recipe.data,
        "metric": exam.main,
        "steps": recipe.steps,
        "scores": scores,
        "means": means,
        "difference": means["melete"] - means["transformers"],
        "noise": noise,
        "seconds": seconds,
        "time_ratio": medians["melete"] / medians["transformers"],
    }


def random_folder(rows: LabelledSet, preset: str, context: int, folder: Path) -> Path:
    """A model that has read nothing, with a tokenizer of the rows."""
    texts = (text for row in rows.train for text in row.texts)
    tokenizer = Tokenizer.train(texts, "wordpiece", VOCABULARY)
    tokenizer.save(folder)
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": context,
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
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    keep_freed_memory()  # for both sides
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
        recipe = Recipe(model, asked.data, rows, asked.epochs, asked.batch, asked.rate, asked.context)
        figures = compare(recipe, asked.seeds)
    if asked.json:
        print(json.dumps(figures))
        return
    mean, noise = figures["means"], figures["noise"]
    print(
        f"{asked.data}, {figures['steps']} steps, {asked.seeds} seeds: {figures['metric']} {mean['melete']:.4f} beside "
        f"{mean['transformers']:.4f} ({figures['difference']:+.4f}"
        + (f", noise {noise:.4f}" if noise is not None else "")
        + f"); {figures['time_ratio']:.2f}x its wall clock"
    )


if __name__ == "__main__":
    main()
