"""What a model is asked about a text: one file a task, found by its name on the Hub."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.tasks.base import Predictor

# task -> where its `Predictor` is defined; the families say in their HEADS which of them they have a head for
TASKS: dict[str, str] = {
    "fill-mask": "melete.tasks.fill_mask:FillMask",
    "text-classification": "melete.tasks.text_classification:TextClassification",
    "token-classification": "melete.tasks.token_classification:TokenClassification",
    "question-answering": "melete.tasks.question_answering:QuestionAnswering",
    "feature-extraction": "melete.tasks.feature_extraction:FeatureExtraction",
    "translation": "melete.tasks.text_to_text:Translation",
    "summarization": "melete.tasks.text_to_text:Summarization",
    "text2text-generation": "melete.tasks.text_to_text:AnyText",
    "extractive-summarization": "melete.tasks.extractive_summarization:ExtractiveSummarization",
}

# the task of decoders, which have a loop of their own: see `melete.generation`
GENERATION = "text-generation"
# summaries of whole sentences: a model that scores tokens, whose folder says what the scores are for
EXTRACTION = "extractive-summarization"
# what every model can be asked for; only a folder that was made for it is taken to be
FEATURES, FEATURES_FILE = "feature-extraction", "modules.json"


def predictor_class(task: str) -> type[Predictor]:
    """What answers a task.

    Raises:
        InputError: no such task.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}", expected=f"one of {', '.join(TASKS)}")
    module, _, name = TASKS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def task_of(folder: Path, wanted: str | None = None) -> str:
    """What a model folder is for: "text-generation" or one of `TASKS`.

    It is the task of the class that config.json names, or one whose head is a part of that class's head. A folder
    saved from a bare decoder continues texts; one whose config.json names no class has the head that was asked for, or
    loading it fails.

    Args:
        folder: see `models.checkpoint.locate`.
        wanted: a task that was asked for.

    Raises:
        InputError: no config.json, no such task, or the model has no head for it, or for any.
    """
    from melete.data.labelled.rows import TAGGING, TEXT_TO_TEXT, WRITTEN_TASKS
    from melete.models import family
    from melete.models.checkpoint import named_head
    from melete.models.purpose import read_purpose

    if wanted is not None and wanted != GENERATION:
        predictor_class(wanted)
    name, architecture, own = named_head(folder)
    if wanted == FEATURES or (wanted is None and (folder / FEATURES_FILE).is_file()):
        return FEATURES
    # A text for a text: the class is the same for each of these tasks, and may be that of any decoder.
    tasks = {GENERATION: WRITTEN_TASKS, TEXT_TO_TEXT: WRITTEN_TASKS, TAGGING: (EXTRACTION,)}.get(
        own or "", ()
    )
    purpose = read_purpose(folder) if tasks else None
    if purpose is not None and purpose.task in tasks and wanted in (None, purpose.task):
        return purpose.task
    if own == TEXT_TO_TEXT and wanted in (None, *WRITTEN_TASKS):
        return wanted or TEXT_TO_TEXT
    heads = family(name).HEADS
    worn = set(heads[own].parts) if own is not None else set[str]()
    for task in [own, GENERATION, *TASKS] if wanted is None else [wanted]:
        if task == FEATURES or task not in heads or task not in (GENERATION, *TASKS):
            continue
        bare = own is None and (task == GENERATION or (wanted is not None and not architecture))
        if bare or set(heads[task].parts) <= worn:
            return task
    generator = folder / "generator"
    others = f"it is for {own}" if own in (GENERATION, *TASKS) else ""
    raise InputError(
        f"{architecture or name} has no head for {wanted or 'a task'}",
        where=str(folder),
        expected="" if wanted else f"a model for {', '.join([GENERATION, *TASKS])}",
        do=f"its generator fills masks: {generator}" if generator.is_dir() else others,
    )
