"""The configuration of a run: defaults <- recipe.toml <- key=value, strict, and written into the run folder.

Modules of `nn/` and `models/` never see this; they get their own small config or plain arguments.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from melete.data.corruption import UNITS
from melete.data.encoder_text import PAIRS
from melete.data.splits import MOST_HELD_OUT
from melete.data.streams import MAX_LINE_BYTES
from melete.errors import InputError, StorageError

OBJECTIVES = (
    "causal-lm",
    "masked-lm",
    "replaced-token",
    "span-corruption",
    "text-infilling",
    "text-classification",
    "sentence-similarity",
    "sentence-embedding",
    "token-classification",
    "question-answering",
    "translation",
    "summarization",
    "text2text-generation",
    "extractive-summarization",
)
PAIRINGS, POOLINGS = ("cosine", "contrastive"), ("", "mean", "first", "last")
RECOMPUTES = ("auto", "on", "off")
PACKINGS = ("auto", "sorted", "packed")
LANGUAGES = ("auto", "en", "zh")
OPTIMIZERS = ("adamw", "muon", "rmsprop", "adafactor")
SCHEDULES = ("constant", "linear", "linear-overlap", "cosine", "wsd", "inverse-sqrt", "piecewise")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ModelSection(_Section, frozen=True):
    source: str = "qwen3:mini"  # family:preset (from scratch), a folder, or a Hub id (continued training)
    # initialisation scheme; empty = the family's own; bigrams = embedding and output from counts of pairs in the text
    init: str = ""
    config: dict[str, Any] = {}  # fields of the family's config to change, e.g. {num_hidden_layers = 4}


class TokenizerSection(_Section, frozen=True):
    source: str = ""  # a folder; empty = train one on the training text (or the model's own)
    kind: str = ""  # byte-bpe, wordpiece, unigram, char, word; empty = byte-bpe, wordpiece for encoders
    vocab_size: int = 8192
    lowercase: bool = False  # lower the case and strip accents (wordpiece)


class DataSection(_Section, frozen=True):
    train: list[str] = []  # named sets, files or folders; "-" is standard input
    valid: list[str] = []  # empty = the named set's own, else split off by document
    text_column: str = ""  # of csv, tsv, jsonl and parquet; empty = found by itself
    max_line_bytes: int = MAX_LINE_BYTES  # the longest line of a text
    valid_fraction: float = 0.05  # share of documents held out when `valid` is empty


class ObjectiveSection(_Section, frozen=True):
    # causal-lm, masked-lm, replaced-token, span-corruption, text-infilling; empty = what the model's family is for
    name: str = ""
    label_smoothing: float = 0.0  # causal-lm, span-corruption, text-infilling
    z_loss: float = 0.0  # causal-lm
    mask_rate: float = 0.15  # share of the tokens that are to be restored
    last_mask_rate: float = 0.0  # at the last step, reached on a straight line; 0 = the same
    mask_unit: str = ""  # token, word, span; empty = whole words where the text has words
    # masked-lm: nsp (does the second text follow?), sop (are the two swapped?); empty = one text
    pair: str = ""
    generator_share: float = 0.25  # replaced-token: the generator's width as a share of the discriminator's
    discriminator_weight: float = 50.0  # replaced-token
    # replaced-token: share of the steps in which the discriminator's layers first restore hidden tokens
    restore_first: float = 0.0
    noise: float = (
        0.0  # share of the tokens (span-corruption) or words (text-infilling) hidden; 0 = 0.15 and 0.3
    )
    mean_span: float = 3.0  # span-corruption, text-infilling: mean length of what is hidden in one piece
    shuffle: bool = True  # text-infilling: sentences change places


class OptimizerSection(_Section, frozen=True):
    name: str = "muon"  # adamw, muon (matrices; AdamW for the rest), rmsprop, adafactor
    learning_rate: float = 0.0  # peak; 0 = what is usual for the optimizer
    matrix_learning_rate: float = 0.02  # peak for the matrices under muon
    weight_decay: float = 0.1  # decoupled; matrices only
    l1: float = 0.0  # decoupled soft threshold, matrices only
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    bias_correction: bool = True  # of adamw's early averages; BERT and ELECTRA were trained without
    momentum: float = 0.95  # of muon and rmsprop


class ScheduleSection(_Section, frozen=True):
    # constant, linear, linear-overlap (falls from the first step on, as BERT's), cosine, wsd (warm-up, stable, decay),
    # inverse-sqrt, piecewise
    name: str = "wsd"
    warmup_steps: int = 0
    decay_fraction: float = 0.5  # wsd: share of the steps, at the end, in which the rate falls
    final_ratio: float = 0.0  # rate at the last step, as a share of the peak
    points: list[tuple[float, float]] = []  # piecewise: (progress, ratio) pairs, joined by straight lines


class TrainingSection(_Section, frozen=True):
    steps: int = 1000
    minutes: float = 0.0  # time budget from which model size, steps and schedule are chosen; 0 = none
    batch_tokens: int = 16384  # tokens of one optimiser step, over all micro-batches and ranks
    context: int = 256  # tokens of one row
    # (progress, tokens): shorter rows first learn sooner
    context_schedule: tuple[tuple[float, int], ...] = ()
    micro_batch_rows: int = 0  # rows of `context` tokens in one forward pass; 0 = found by itself
    packing: str = "auto"  # encoders: sorted (like lengths together, padded), packed (side by side in a row)
    device: str = "auto"  # auto, cpu, cuda, mps
    precision: str = "auto"  # auto, float32, bfloat16, float16, float64
    threads: int = 0  # CPU threads; 0 = all
    kernels: str = "auto"  # what computes in bfloat16 on a CPU beside matrix products: auto, native, torch
    # layers compute their inside again in the backward pass instead of keeping it: auto (where memory asks), on, off
    recompute: str = "auto"
    clip_norm: float = 1.0  # 0 = off
    ema_decay: float = 0.0  # exponential moving average of the weights; 0 = off
    average_last: int = 0  # final weights = mean of the last k checkpoints; 0 = off
    eval_every: int = 250  # steps; 0 = only at the end
    eval_tokens: int = 131072  # of the validation text, read at each of these; the end reads all
    save_every: int = 500  # steps; 0 = only at the end and on a signal
    keep: int = 2  # latest checkpoints kept beside the best one
    patience: int = 0  # evaluations in a row without a better figure before stopping; 0 = never stop early
    sample_every: int = 0  # steps between samples; 0 = only at the end
    prompts: tuple[str, ...] = ("",)  # what samples start from


class EvaluationSection(_Section, frozen=True):
    context: int = 0  # most tokens the final evaluation looks at; 0 = training.context
    stride: int = 0  # tokens scored by each window; 0 = half the context
    baseline: bool = True  # a 5-gram of the same tokens, and its mixture with the model, in the next columns
    beside: list[
        str
    ] = []  # of tasks: runs or folders of other models, whose answers stand in the next columns
    page_language: str = "auto"  # the run's page opens in: auto (the browser's), en, zh


class AugmentationSection(_Section, frozen=True):
    delete: float = 0.0  # share of the tokens of a training text that are left out
    swap: float = 0.0  # that change places with the next one
    replace: float = 0.0  # that become a random token
    mask: float = 0.0  # that become [MASK]
    shuffle: float = 0.0  # share of the texts whose sentences change places


class LoraSection(_Section, frozen=True):
    rank: int = 0  # of the two matrices that are trained beside each matrix of the blocks; 0 = no LoRA
    alpha: float = 16.0  # their product counts alpha / rank
    dropout: float = 0.0
    targets: list[str] = []  # ends of the names of our modules, e.g. ["query", "value"]; empty = all matrices


class FinetuningSection(_Section, frozen=True):
    columns: dict[str, str] = {}  # column by role (text, text_pair, label, ...); others are found
    label_file: str = ""  # a label a line: their order, and the names of labels that are numbers
    epochs: float = 3.0  # passes over the training rows; training.steps, where given, decides instead
    batch_size: int = 32  # texts of an optimiser step
    minutes: float = 0.0  # of training: fewer epochs where they would take longer; 0 = no limit
    find_rate: bool = False  # the learning rate is looked for in a short training whose rate rises
    metric: str = ""  # that decides which weights are best; empty = the usual one of the task
    dropout: float = (
        0.1  # before the last layer; of tasks whose answers are written: in all layers of a new model
    )
    head_rate: float = 1.0  # learning rate of the head, as a multiple of that of the layer below
    layer_decay: float = 1.0  # learning rate of a layer as a share of that of the layer above
    freeze_layers: int = 0  # the embeddings and so many layers stay as they are; 0 = nothing does
    head_only: bool = False
    unfreeze: float = 0.0  # share of the training over which layers thaw one by one, from the top
    label_smoothing: float = 0.0
    class_weights: str = ""  # balanced = as if all labels were equally frequent
    r_drop: float = 0.0  # weight of the divergence of two passes with dropout
    bpe_dropout: float = 0.0  # share of the merges left out each time a training text is written in tokens
    adversarial: float = 0.0  # length of a step of the embeddings against the loss, for a second pass
    augmentation: AugmentationSection = AugmentationSection()
    lora: LoraSection = LoraSection()
    pairs: str = "cosine"  # sentence-embedding: cosine (as near as scored), contrastive (among all of a step)
    temperature: float = 0.05  # of a contrastive loss
    pooling: str = ""  # sentence-embedding: mean, first, last; empty = mean
    crf: bool = False  # token-classification: tags are decided together
    overlap: float = 0.25  # share of a window of a long text that stands in the next one too
    folds: int = 0  # validation is the part `fold` of so many, whatever the set says; 0 = off
    fold: int = 0
    split_seed: int = 0  # of what is held out, where nothing else says it: the same for every seed of a run
    drop_leaks: bool = False  # validation rows that stand in train are left out
    strict: bool = False  # what is wrong with the data ends the run before it begins


class DecodingSection(_Section, frozen=True):
    beams: int = 5  # answers that grow side by side; 1 = the likeliest token each time
    length_penalty: float = 1.0  # beams compare log-probability / tokens ** this
    max_new_tokens: int = 0  # most tokens of an answer; 0 = as the longest of the training rows
    no_repeat_ngram_size: int = 0  # no run of so many tokens comes twice; 0 = off
    coverage_penalty: float = 0.0  # weight of how much of the source beams that end have looked at; 0 = off


class GuardSection(_Section, frozen=True):
    window: int = 128  # steps whose gradient norms and losses say what is usual
    sigma: float = 6.0  # a step this many standard deviations above the mean is skipped; 0 = off
    rollback_after: int = 5  # skipped steps in a row before the weights go back to the last checkpoint
    max_rollbacks: int = 3  # before the run is given up


class RunConfig(_Section, frozen=True):
    """Everything that decides what a run computes.

    `choices` holds, for each key that was chosen by measuring or by a budget, the reason in words.
    """

    name: str = ""  # of the run folder; empty = family-preset-data
    folder: str = "runs"
    seed: int = 0
    model: ModelSection = ModelSection()
    tokenizer: TokenizerSection = TokenizerSection()
    data: DataSection = DataSection()
    objective: ObjectiveSection = ObjectiveSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection = TrainingSection()
    guard: GuardSection = GuardSection()
    evaluation: EvaluationSection = EvaluationSection()
    finetuning: FinetuningSection = FinetuningSection()
    decoding: DecodingSection = DecodingSection()
    choices: dict[str, str] = {}


def load(recipe: Path | None = None, changes: Sequence[str] = ()) -> RunConfig:
    """The config of a recipe file with `section.key=value` changes on top.

    Raises:
        InputError: a missing or broken file, an unknown key (names the nearest), a value of the wrong type.
    """
    return change_by_text(from_tree({} if recipe is None else _read_toml(recipe), where=str(recipe)), changes)


def change_by_text(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """A copy with `section.key=value` changes as a person types them."""
    tree = msgspec.to_builtins(config)
    for text in changes:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"{text!r} is not a change", expected="section.key=value", where="command line")
        _put(tree, path.strip().split("."), _value(value.strip()), where=text)
    return from_tree(tree, where="command line")


def from_tree(tree: dict[str, Any], where: str) -> RunConfig:
    """Nested plain values as a checked `RunConfig`."""
    _check_keys(tree, RunConfig, (), where)
    try:
        config = msgspec.convert(tree, RunConfig)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        raise InputError(what, where=f"{where}: {place.rstrip('`') or 'recipe'}") from None
    _check_ranges(config, where)
    return config


def change(config: RunConfig, changes: dict[str, Any], reasons: dict[str, str] | None = None) -> RunConfig:
    """A copy with `{"section.key": value}` changed, and the reasons of those changes noted in `choices`."""
    tree = msgspec.to_builtins(config)
    for path, value in changes.items():
        _put(tree, path.split("."), value, where=path)
    tree["choices"].update(reasons or {})
    return from_tree(tree, where="config")


def dump(config: RunConfig) -> str:
    """The config as TOML text, every key written out."""
    import tomli_w

    return tomli_w.dumps(msgspec.to_builtins(config))


def equivalent_command(config: RunConfig) -> str:
    """The explicit `melete train` command that does the same without any choice being made again."""
    plain, default = msgspec.to_builtins(config), msgspec.to_builtins(RunConfig())
    plain["training"]["minutes"] = 0.0  # what the time budget chose stands in the other keys
    parts: list[str] = []
    for section, value in plain.items():
        if section == "choices" or value == default[section]:
            continue
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for key, entry in entries:
            if not key or entry != default[section][key]:
                parts.append(_shell(f"{section}.{key}" if key else section, entry))
    return " ".join(["melete train", *parts])


def _shell(path: str, value: Any) -> str:
    """`path=value` as a shell takes it: bare words bare, all else in TOML's notation."""
    bare = isinstance(value, str) and _value(value) == value and re.fullmatch(r"[\w:/.\-]+", value)
    return shlex.quote(f"{path}={value if bare else _toml(value)}")


def _toml(value: Any) -> str:
    """One value on one line. JSON's notation is TOML's, but for tables and the character DEL."""
    if isinstance(value, dict):
        pairs = (
            (key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml(key), _toml(entry))
            for key, entry in value.items()
        )
        return "{" + ", ".join(f"{key} = {entry}" for key, entry in pairs) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        do = "see a whole one: melete pretrain qwen3 --data FILE --dry-run"
        raise InputError("no such recipe", where=str(path), do=do) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not valid UTF-8 at byte {error.start}", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"broken TOML: {error}", where=str(path)) from None
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=str(path)) from None


def _value(text: str) -> Any:
    """The right side of key=value: TOML if it parses (numbers, lists, true), else the text itself."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"{key!r} is a value, not a section", where=where)
    tree[path[-1]] = value


def _check_keys(tree: dict[str, Any], kind: type, path: tuple[str, ...], where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tree.items():
        full = ".".join((*path, key))
        if key not in fields:
            near = difflib.get_close_matches(full, list(_all_keys()), 1, 0.5)
            raise InputError(
                f"unknown key {full!r}",
                where=where,
                expected=f"one like {near[0]!r}" if near else f"one of {', '.join(fields)}",
            )
        if isinstance(fields[key], type) and issubclass(fields[key], msgspec.Struct):
            if not isinstance(value, dict):
                raise InputError(
                    f"{full!r} is a section, not a value", where=where, expected=f"[{full}] or {full}.key"
                )
            _check_keys(value, fields[key], (*path, key), where)


def _all_keys(kind: type = RunConfig) -> list[str]:
    keys: list[str] = []
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            keys += [f"{field.name}.{inner}" for inner in _all_keys(field.type)]
        else:
            keys.append(field.name)
    return keys


def _check_ranges(config: RunConfig, where: str) -> None:
    """Values that have the right type and make no sense."""
    for key, value, right, expected in _rules(config):
        if not right:
            raise InputError(f"{key} is {value!r}", where=where, expected=expected)


def _rules(config: RunConfig) -> Iterator[tuple[str, Any, bool, str]]:
    t, o, s, g = config.training, config.optimizer, config.schedule, config.guard
    for key, value, names in (
        ("objective.name", config.objective.name or OBJECTIVES[0], OBJECTIVES),
        ("objective.mask_unit", config.objective.mask_unit or UNITS[0], UNITS),
        ("objective.pair", config.objective.pair or PAIRS[1], PAIRS[1:]),
        ("optimizer.name", o.name, OPTIMIZERS),
        ("schedule.name", s.name, SCHEDULES),
        ("training.packing", t.packing, PACKINGS),
        ("training.recompute", t.recompute, RECOMPUTES),
        ("evaluation.page_language", config.evaluation.page_language, LANGUAGES),
    ):
        yield key, value, value in names, f"one of {', '.join(names)}"
    rate, share = config.objective.mask_rate, config.objective.generator_share
    yield "objective.mask_rate", rate, 0 < rate < 1, "more than 0 and less than 1"
    yield "objective.generator_share", share, 0 < share <= 1, "more than 0 and at most 1"
    first = config.objective.restore_first
    yield "objective.restore_first", first, 0 <= first < 1, "0 or more, and less than 1"
    plain = Path(config.name).name == config.name != ".."
    yield "name", config.name, plain, "the name of a folder, without a path"
    yield (
        "schedule.points",
        s.points,
        s.name != "piecewise" or bool(s.points),
        "like [[0.0, 1.0], [1.0, 0.0]]",
    )
    yield (
        "training.batch_tokens",
        t.batch_tokens,
        t.batch_tokens >= t.context,
        f"at least training.context ({t.context})",
    )
    for path, least, below in _RANGES:
        value: Any = config
        for key in path.split("."):
            value = getattr(value, key)
        for number in value if isinstance(value, tuple) else (value,):
            highest = "at most 1" if below == _UP_TO_1 else f"below {below:g}"
            bound = f" and {highest}" if below < math.inf else ""
            yield path, value, least <= number < below, f"at least {least:g}{bound}"
    schedule = t.context_schedule
    starts, rows = [start for start, _ in schedule], [row for _, row in schedule]
    yield (
        "training.context_schedule",
        schedule,
        not schedule
        or (starts[0] == 0 and starts == sorted(starts) and min(rows) >= 2 and max(rows) <= t.context),
        f"(progress, tokens) pairs from progress 0 on, of at most training.context ({t.context}) tokens",
    )
    yield "guard.window", g.window, g.window != 1, "0 (off), or 2 and more"
    tuning = config.finetuning
    weights = ("", "balanced")
    yield (
        "finetuning.class_weights",
        tuning.class_weights,
        tuning.class_weights in weights,
        "balanced, or nothing",
    )
    yield "finetuning.pairs", tuning.pairs, tuning.pairs in PAIRINGS, f"one of {', '.join(PAIRINGS)}"
    yield "finetuning.temperature", tuning.temperature, tuning.temperature > 0, "more than 0"
    yield (
        "finetuning.pooling",
        tuning.pooling,
        tuning.pooling in POOLINGS,
        f"one of {', '.join(POOLINGS[1:])}",
    )
    yield "finetuning.folds", tuning.folds, tuning.folds != 1, "0 (off), or 2 and more"
    yield "finetuning.fold", tuning.fold, tuning.fold < max(tuning.folds, 1), "less than finetuning.folds"
    fraction = config.data.valid_fraction
    held_out = f"more than 0 and at most {MOST_HELD_OUT:g}"
    yield "data.valid_fraction", fraction, 0 < fraction <= MOST_HELD_OUT, held_out
    yield "schedule.decay_fraction", s.decay_fraction, 0 <= s.decay_fraction <= 1, "0 to 1"


_UP_TO_1 = math.nextafter(1, 2)  # what stays below it may be 1
# key, least value, and what it must stay below
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**31),
    ("tokenizer.vocab_size", 1, math.inf),
    ("data.max_line_bytes", 1, math.inf),
    ("objective.label_smoothing", 0, 1),
    ("objective.z_loss", 0, math.inf),
    ("objective.last_mask_rate", 0, 1),
    ("objective.discriminator_weight", 0, math.inf),
    ("objective.noise", 0, 0.95),
    ("objective.mean_span", 1, math.inf),
    ("optimizer.learning_rate", 0, math.inf),
    ("optimizer.matrix_learning_rate", 0, math.inf),
    ("optimizer.weight_decay", 0, math.inf),
    ("optimizer.l1", 0, math.inf),
    ("optimizer.betas", 0, 1),
    ("optimizer.eps", 0, math.inf),
    ("optimizer.momentum", 0, 1),
    ("schedule.warmup_steps", 0, math.inf),
    ("schedule.final_ratio", 0, math.inf),
    ("training.steps", 1, math.inf),
    ("training.minutes", 0, math.inf),
    ("training.context", 2, math.inf),
    ("training.micro_batch_rows", 0, math.inf),
    ("training.threads", 0, math.inf),
    ("training.clip_norm", 0, math.inf),
    ("training.ema_decay", 0, 1),
    ("training.average_last", 0, math.inf),
    ("training.eval_every", 0, math.inf),
    ("training.eval_tokens", 0, math.inf),
    ("training.save_every", 0, math.inf),
    ("training.keep", 1, math.inf),
    ("training.patience", 0, math.inf),
    ("training.sample_every", 0, math.inf),
    ("evaluation.context", 0, math.inf),
    ("evaluation.stride", 0, math.inf),
    ("finetuning.epochs", 0, math.inf),
    ("finetuning.batch_size", 1, math.inf),
    ("finetuning.minutes", 0, math.inf),
    ("finetuning.dropout", 0, 1),
    ("finetuning.head_rate", 0, math.inf),
    ("finetuning.layer_decay", 0, _UP_TO_1),
    ("finetuning.freeze_layers", 0, math.inf),
    ("finetuning.unfreeze", 0, _UP_TO_1),
    ("finetuning.label_smoothing", 0, 1),
    ("finetuning.r_drop", 0, math.inf),
    ("finetuning.adversarial", 0, math.inf),
    ("finetuning.bpe_dropout", 0, 1),
    ("finetuning.augmentation.delete", 0, 1),
    ("finetuning.augmentation.swap", 0, 1),
    ("finetuning.augmentation.replace", 0, 1),
    ("finetuning.augmentation.mask", 0, 1),
    ("finetuning.augmentation.shuffle", 0, _UP_TO_1),
    ("finetuning.lora.rank", 0, math.inf),
    ("finetuning.lora.alpha", 0, math.inf),
    ("finetuning.lora.dropout", 0, 1),
    ("finetuning.overlap", 0, 0.9),
    ("finetuning.folds", 0, math.inf),
    ("finetuning.fold", 0, math.inf),
    ("decoding.beams", 1, math.inf),
    ("decoding.length_penalty", -math.inf, math.inf),
    ("decoding.max_new_tokens", 0, math.inf),
    ("decoding.no_repeat_ngram_size", 0, math.inf),
    ("guard.window", 0, math.inf),
    ("guard.sigma", 0, math.inf),
    ("guard.rollback_after", 1, math.inf),
    ("guard.max_rollbacks", 0, math.inf),
)
