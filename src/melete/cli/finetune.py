"""`melete finetune`: a model for a task, from labelled rows."""

from __future__ import annotations

import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from melete.cli._labelled import COLUMNS
from melete.cli._run import close, json_option
from melete.cli._table import table
from melete.console import duration, say
from melete.errors import InputError

BEGUN = time.monotonic()
WRITTEN = ("translation", "summarization", "text2text-generation")
TASKS = (
    "text-classification",
    "sentence-similarity",
    "token-classification",
    "question-answering",
    *WRITTEN,
    "extractive-summarization",
)

# flag -> the config key it is a shorthand for
_FLAGS = {
    "name": "name",
    "seed": "seed",
    "label_file": "finetuning.label_file",
    "epochs": "finetuning.epochs",
    "batch_size": "finetuning.batch_size",
    "minutes": "finetuning.minutes",
    "metric": "finetuning.metric",
    "patience": "training.patience",
    "rate": "optimizer.learning_rate",
    "context": "training.context",
    "lora": "finetuning.lora.rank",
    "device": "training.device",
    "precision": "training.precision",
    "tokenizer": "tokenizer.source",
}
# flags that are true or not there
_SWITCHES = ("find_rate", "head_only", "crf", "drop_leaks", "strict")


@click.command()
@click.argument("task", type=click.Choice(TASKS), metavar="TASK")
@click.option("--model", "-m", required=True, help="Run, folder, Hub id, or FAMILY:PRESET from scratch.")
@click.option("--data", "-d", required=True, metavar="FILE|FOLDER|NAME", help="Labelled rows to learn from.")
@click.option("--valid", metavar="FILE|NAME", help="Rows to measure on; default: the set's, or a tenth.")
@COLUMNS
@click.option("--label-file", metavar="FILE", help="A label a line, in the order of their ids.")
@click.option("--epochs", type=float, help="Passes over the rows. [3; 30 of written answers]")
@click.option("--batch-size", type=int, help="Texts of an optimiser step. [32]")
@click.option("--rate", type=float, help="Peak learning rate; default: by the model's width.")
@click.option("--find-rate", is_flag=True, help="Look for the learning rate first.")
@click.option("--minutes", type=float, help="Fewer epochs where they would take longer.")
@click.option("--context", type=int, help="Most tokens of a text. [256]")
@click.option("--metric", help="The figure that decides which weights are kept.")
@click.option("--patience", type=int, help="Stop early: after so many evaluations without a better figure.")
@click.option("--lora", type=int, metavar="RANK", help="Train small matrices beside those of the model.")
@click.option("--head-only", is_flag=True, help="Train nothing but the last layer.")
@click.option(
    "--bi-encoder", is_flag=True, help="sentence-similarity: read each text by itself; see melete embed."
)
@click.option("--crf", is_flag=True, help="token-classification: decide the tags of a sentence together.")
@click.option("--seeds", type=int, default=1, help="Train with so many seeds; mean and spread.")
@click.option("--folds", type=int, default=0, help="Cross-validation: hold out each of so many parts.")
@click.option("--drop-leaks", is_flag=True, help="Leave validation rows out that stand in train.")
@click.option("--strict", is_flag=True, help="Stop at anything that is wrong with the rows.")
@click.option("--tokenizer", metavar="FOLDER", help="From scratch: use this one.")
@click.option("--name", help="Name of the run folder; default: from model and data.")
@click.option("--seed", type=int, help="Default: 0.")
@click.option("--device", help="auto, cpu, cuda, mps.")
@click.option("--precision", help="auto, float32, bfloat16, float16.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a config key.")
@click.option("--no-baseline", is_flag=True, help="Skip the linear model that is scored beside it.")
@json_option
def command(
    task: str, data: str, seeds: int, folds: int, as_json: bool, changes: tuple[str, ...], **options: Any
) -> None:
    """Train a model for TASK on labelled rows, and score it beside a linear model of the same rows.

    TASK is text-classification, sentence-similarity, token-classification, question-answering, translation,
    summarization, text2text-generation or extractive-summarization (whole sentences).

    Rows are csv, tsv, jsonl, parquet, CoNLL or SQuAD files, or a named set; columns are found by themselves, and what
    is wrong with the rows is told first. What is to be written may stand in a file of its own: --data a.en,a.de

    Few labels want craft. Each of these is typed behind --set, or written in a recipe for melete train:

    \b
      finetuning.layer_decay=0.9          a layer learns at this share of the rate of the one above it
      finetuning.head_rate=5              the last layer learns at a multiple of the rate below it
      finetuning.freeze_layers=2          the embeddings and so many layers stay as they are
      finetuning.unfreeze=0.5             layers thaw one by one from the top, over this share of the training
      finetuning.lora.alpha=32            with --lora: how much the small matrices count; also lora.dropout
      finetuning.lora.targets=["query"]   with --lora: ends of the names of the matrices they stand beside
      finetuning.label_smoothing=0.1      so much of each answer is spread over the other labels
      finetuning.class_weights=balanced   rare labels count for more
      finetuning.dropout=0.2              before the last layer
      finetuning.r_drop=1                 R-Drop: two passes with other dropout shall agree, times this
      finetuning.adversarial=0.5          FGM: a second pass, its embeddings moved so far against the model
      finetuning.bpe_dropout=0.1          written answers: words cut into other tokens each time they are read
      finetuning.augmentation.delete=0.1  share of a text's tokens left out; also swap, replace and mask (noise)
      finetuning.augmentation.shuffle=1   share of the texts whose sentences change places
      finetuning.overlap=0.5              share of a window of a long text that stands in the next one too
      finetuning.pairs=contrastive        with --bi-encoder: tell pairs apart; also temperature and pooling
      finetuning.split_seed=1             other rows are held out

    \b
    Examples:
      melete finetune text-classification --model bert:tiny --data reviews.tsv
      melete finetune token-classification --model runs/bert --data resume_ner --crf --epochs 5
      melete finetune text-classification --model runs/bert --data sst2 --seeds 3 --set finetuning.layer_decay=0.9
      melete finetune translation --model marian:nano --data multi30k --epochs 30 --minutes 40
    """
    from melete import config as configs

    if options["bi_encoder"]:
        if task != "sentence-similarity":
            raise InputError(f"--bi-encoder {task}", expected="sentence-similarity")
        task = "sentence-embedding"
    asked: dict[str, Any] = {"objective.name": task, "model.source": options["model"], "data.train": [data]}
    if options["valid"]:
        asked["data.valid"] = [options["valid"]]
    asked |= {key: options[flag] for flag, key in _FLAGS.items() if options[flag] is not None}
    asked |= {f"finetuning.{flag}": True for flag in _SWITCHES if options[flag]}
    if options["columns"]:
        asked["finetuning.columns"] = options["columns"]
    if options["no_baseline"]:
        asked["evaluation.baseline"] = False
    recipe = "writing.toml" if task in WRITTEN else "finetune.toml"
    recipe = Path(str(files("melete") / "cli" / "recipes" / recipe))
    config = configs.change_by_text(configs.change(configs.load(recipe), asked), changes)
    if seeds < 1 or folds == 1 or folds < 0:
        raise InputError(
            f"--seeds {seeds} --folds {folds}", expected="at least one seed; no fold, or several"
        )
    if seeds == 1 and not folds:
        from melete.training.run import start

        close(start(config, BEGUN), as_json, BEGUN)
    else:
        _several(config, seeds, folds, as_json)


def _several(config: Any, seeds: int, folds: int, as_json: bool) -> None:
    """Each seed and fold, one after the other, and what they come to."""
    from melete.training.repeats import repeat, summary

    repeated = repeat(config, seeds, folds)
    if repeated.runs:
        card = summary(repeated.runs)
        say(table(card.rows))
        say(card.below)
        if as_json:
            import msgspec

            click.echo(msgspec.json.encode(card.figures))
        say(f"{duration(time.monotonic() - BEGUN)} in all")
        say(f"next: {card.next}")
    if repeated.stopped is not None:
        say(f"saved; go on with: melete resume {repeated.stopped.folder}")
        sys.exit(128 + (repeated.stopped.signal or 2))
