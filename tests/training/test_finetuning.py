"""Fine-tuning: tiny models learn each task, a stopped run goes on bit for bit, and what is asked for is done."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_rig import finetune_config, stopped_at, trained, write_rows
from melete import config as configs
from melete.data.labelled.rows import LABELLED_TASKS, WRITTEN_TASKS
from melete.errors import InputError
from melete.models.checkpoint import load_config, load_network, locate
from melete.training import run as runs
from melete.training.finetuning import FinetuneJob
from melete.training.job import job_of
from melete.training.rate_finder import find_rate
from melete.training.repeats import repeat, summary, variants
from rig import events

CRAFT = {
    "finetuning__r_drop": 0.5,
    "finetuning__adversarial": 0.1,
    "finetuning__unfreeze": 0.4,
    "finetuning__layer_decay": 0.7,
    "finetuning__label_smoothing": 0.05,
    "finetuning__class_weights": "balanced",
    "finetuning__augmentation": {"delete": 0.1, "swap": 0.1, "replace": 0.05, "mask": 0.05, "shuffle": 0.3},
}


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *(("bert", task) for task in LABELLED_TASKS if task not in WRITTEN_TASKS),
        ("qwen3", "text-classification"),
        ("gpt2", "token-classification"),
        ("modernbert", "text-classification"),
        ("electra", "token-classification"),
    ],
)
def test_a_tiny_model_learns_the_rule(task: str, family: str, tmp_path: Path) -> None:
    epochs = {"sentence-similarity": 12.0, "question-answering": 15.0}.get(task, 8.0)
    epochs += 6.0 * (family == "qwen3")  # a byte-level tokenizer makes longer texts
    config = finetune_config(tmp_path, task, family, finetuning__epochs=epochs)
    _, figures = trained(config)
    # Of scores that take two values only, ranks agree to 0.863 at most.
    assert figures["table"][0][figures["metric"]] > (0.85 if task == "sentence-similarity" else 0.9)
    assert figures["table"][0]["low"] <= figures["table"][0][figures["metric"]] <= figures["table"][0]["high"]


def test_a_chain_learns_tags(tmp_path: Path) -> None:
    config = finetune_config(tmp_path, "token-classification", finetuning__crf=True)
    folder, figures = trained(config)
    assert figures["table"][0]["f1"] > 0.9
    assert (folder / "final" / "crf.safetensors").exists()


# -- going on --


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("text-classification", {**CRAFT, "finetuning__dropout": 0.2}),
        ("text-classification", {"training__precision": "bfloat16", "training__ema_decay": 0.9}),
        ("token-classification", {"finetuning__crf": True, "finetuning__dropout": 0.2}),
        ("question-answering", {"finetuning__head_rate": 3.0}),
    ],
    ids=["craft", "bfloat16", "chain", "questions"],
)
def test_a_stopped_run_goes_on_bit_for_bit(task: str, changes: dict[str, Any], tmp_path: Path) -> None:
    saving = {"training__save_every": 5, "training__keep": 99, "finetuning__epochs": 2.0}
    config = finetune_config(tmp_path, task, **saving, **changes)
    folder, figures = trained(config)
    copy = stopped_at(folder, 10, tmp_path / "copy")
    again = runs.resume(copy)
    assert runs.score(again).figures == figures
    for name in ("model.safetensors", "config.json"):
        assert (copy / "final" / name).read_bytes() == (folder / "final" / name).read_bytes()
    losses, expected = ([e["loss"] for e in events(one, "step")] for one in (copy, folder))
    assert losses == expected


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to train on."""
    folder = tmp_path_factory.mktemp("base")
    return trained(finetune_config(folder, "text-classification"))[0]


def test_lora_goes_on_bit_for_bit_and_leaves_the_base_alone(base: Path, tmp_path: Path) -> None:
    changes = {
        "model__source": str(base),
        "model__config": {},
        "finetuning__lora": {"rank": 4, "dropout": 0.1},
        "training__save_every": 5,
        "training__keep": 99,
        "finetuning__epochs": 2.0,
    }
    config = finetune_config(tmp_path, "token-classification", **changes)
    folder, _ = trained(config)
    copy = stopped_at(folder, 10, tmp_path / "copy")
    runs.resume(copy)
    assert (copy / "final" / "model.safetensors").read_bytes() == (
        folder / "final" / "model.safetensors"
    ).read_bytes()
    assert (folder / "final" / "adapter" / "adapter_model.safetensors").exists()
    tuned, before = load_network(folder / "final").state_dict(), load_network(locate(str(base))).state_dict()
    assert torch.equal(tuned["embeddings.word.weight"], before["embeddings.word.weight"])
    assert not torch.equal(
        tuned["layers.0.attention.query.weight"], before["layers.0.attention.query.weight"]
    )


# -- what is asked for --


def test_a_run_trains_on_with_its_labels_and_keeps_its_head(base: Path, tmp_path: Path) -> None:
    config = finetune_config(
        tmp_path,
        "text-classification",
        model__source=str(base),
        model__config={},
        finetuning__head_only=True,
        finetuning__epochs=0.2,
        optimizer__learning_rate=1e-7,
    )
    folder, figures = trained(config)
    assert figures["table"][0]["accuracy"] > 0.9  # nearly what it was
    tuned, before = load_network(folder / "final").state_dict(), load_network(locate(str(base))).state_dict()
    moved = {name for name in tuned if not torch.equal(tuned[name], before[name])}
    assert moved == {"classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"}


def moved(base: Path, folder: Path, **changes: Any) -> dict[str, float]:
    """How far each depth of the base moved on average in two steps of a training with these changes."""
    own = {"model__source": str(base), "model__config": {}, "finetuning__epochs": 2 / 12}
    config = finetune_config(folder, "text-classification", **own, **changes)
    tuned = load_network(trained(config)[0] / "final").state_dict()
    before = load_network(locate(str(base))).state_dict()
    depths = {"embeddings": "embeddings.", "bottom": "layers.0.", "top": "layers.1.", "head": "classifier."}
    return {
        depth: sum(
            (tuned[name] - before[name]).abs().mean().item() for name in tuned if name.startswith(start)
        )
        for depth, start in depths.items()
    }


def test_each_depth_moves_as_it_is_asked_to(base: Path, tmp_path: Path) -> None:
    plain = moved(base, tmp_path / "plain")
    assert all(far > 0 for far in plain.values())
    slower = moved(base, tmp_path / "decay", finetuning__layer_decay=0.1)
    assert slower["bottom"] / slower["top"] == pytest.approx(0.1 * plain["bottom"] / plain["top"], rel=0.3)
    assert slower["head"] == pytest.approx(plain["head"], rel=0.3)
    faster = moved(base, tmp_path / "head", finetuning__head_rate=5.0)
    assert faster["head"] == pytest.approx(5 * plain["head"], rel=0.3)
    frozen = moved(base, tmp_path / "frozen", finetuning__freeze_layers=1)
    assert [depth for depth, far in frozen.items() if far > 0] == ["top", "head"]
    # The second step reaches the top layer.
    thawing = moved(base, tmp_path / "thaw", finetuning__unfreeze=1.0)
    assert [depth for depth, far in thawing.items() if far > 0] == ["top", "head"]


def test_rare_labels_weigh_more_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = "\n".join(f"text number {i}\t{'rare' if i % 4 == 0 else 'usual'}" for i in range(60))
    (tmp_path / "rows.tsv").write_text(f"text\tlabel\n{rows}\n")
    own: dict[str, Any] = {
        "data__train": [str(tmp_path / "rows.tsv")],
        "finetuning__class_weights": "balanced",
    }
    config = finetune_config(tmp_path, "text-classification", **own)
    job = job_of(config).prepare(config)
    weights = job.build(job.settle(config)).get_buffer("class_weights")
    assert weights.tolist() == pytest.approx([2.0, 2 / 3])  # 12 rows of 48 times 2 are 36 times two thirds


def test_a_training_that_gets_worse_stops_early(base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "text-classification", 60).read_text()
    wrong = re.sub('"(pos|neg)"', lambda found: '"neg"' if found[1] == "pos" else '"pos"', rows)
    (tmp_path / "wrong.jsonl").write_text(wrong)
    changes: dict[str, Any] = {
        "model__source": str(base),
        "model__config": {},
        "data__valid": [str(tmp_path / "wrong.jsonl")],  # the better it learns, the worse it looks
        "training__eval_every": 4,
        "training__patience": 2,
    }
    folder, _ = trained(finetune_config(tmp_path, "text-classification", **changes), "early stop")
    assert [event["step"] for event in events(folder, "eval")] == [4, 8, 12]
    assert json.loads((folder / "best.json").read_text())["checkpoint"] == "step-00000004"


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("question-answering", {"finetuning__class_weights": "balanced"}, "no labels to weigh"),
        ("sentence-similarity", {"finetuning__class_weights": "balanced"}, "no labels to weigh"),
        ("sentence-similarity", {"finetuning__label_smoothing": 0.1}, "no labels to smooth"),
        ("sentence-embedding", {"finetuning__label_smoothing": 0.1}, "no labels to smooth"),
        ("text-classification", {"finetuning__crf": True}, "has no tags"),
        ("token-classification", {"finetuning__augmentation": {"delete": 0.1}}, "expected replace or mask"),
    ],
)
def test_craft_that_a_task_has_no_use_for_is_refused(
    task: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = "sentence-similarity" if task == "sentence-embedding" else task
    config = finetune_config(tmp_path, rows, objective__name=task, **changes)
    with pytest.raises(InputError, match=message):
        runs.start(config)
    assert not (tmp_path / "run").exists()


def test_the_folder_says_what_it_is(base: Path) -> None:
    final = base / "final"
    config = load_config(final)
    assert config.labels == ("neg", "pos")
    assert config.problem_type == "single_label_classification"
    assert json.loads((final / "tokenizer_config.json").read_text())["model_max_length"] == 32
    card = (final / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    kinds = {event["event"] for event in events(base, "result")}
    assert kinds == {"result"}


def test_the_best_weights_by_the_metric_then_by_the_loss_are_kept(base: Path) -> None:
    figures = [event["metrics"] for event in events(base, "eval")]
    best = max(range(len(figures)), key=lambda i: (figures[i]["accuracy"], -figures[i]["loss"]))
    pointer = json.loads((base / "best.json").read_text())["checkpoint"]
    assert pointer == f"step-{events(base, 'eval')[best]['step']:08d}"


def test_time_ends_a_training_early(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"finetuning__epochs": 500.0, "finetuning__minutes": 0.05}
    folder, _ = trained(finetune_config(tmp_path, "text-classification", **changes))
    written = configs.load(folder / "config.toml")
    assert 1 <= written.training.steps < 5000
    assert written.finetuning.minutes == 0.0  # a resume does not measure again
    assert "measured" in written.choices["training.steps"]
    # The line that is printed asks for the same run: the steps it gives win over any epochs.
    typed = shlex.split(configs.equivalent_command(written))[2:]
    again = configs.load(changes=[*typed, "finetuning.epochs=500"])
    settled = job_of(again).prepare(again).settle(again)
    assert "as given" in settled.choices["training.steps"]
    assert configs.equivalent_command(settled) == configs.equivalent_command(written)


def test_a_learning_rate_is_found(tmp_path: Path) -> None:
    config = finetune_config(tmp_path, "text-classification")
    job = job_of(config).prepare(config)
    assert isinstance(job, FinetuneJob)
    config = configs.change(job.settle(config), {"training.micro_batch_rows": 16})
    found = find_rate(config, job, steps=40)
    assert 1e-5 <= found.rate <= 2e-2
    rates = [rate for rate, _ in found.curve]
    assert rates == sorted(rates)
    same = find_rate(config, job, steps=40)
    assert same.rate == found.rate


def test_seeds_and_folds_are_runs_of_their_own(tmp_path: Path) -> None:
    config = finetune_config(tmp_path, "text-classification", finetuning__epochs=1.0)
    names = [one.name for one in variants(config, 2, 0)]
    assert names == ["run-seed0", "run-seed1"]
    assert [one.name for one in variants(config, 1, 2)] == ["run-fold0", "run-fold1"]
    repeated = repeat(config, 2, 0)
    card = summary(repeated.runs)
    each = [run["table"][0]["accuracy"] for run in card.figures["runs"]]
    assert card.figures["summary"]["accuracy"]["mean"] == pytest.approx(sum(each) / 2)
    assert [row[0] for row in card.rows[1:]] == ["run-seed0", "run-seed1", "mean", "standard deviation"]
    rows = {run["rows"] for run in card.figures["runs"]}
    assert rows == {48}  # the same rows are held out


def test_folds_stand_beside_the_baselines_of_the_same_folds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    config = finetune_config(
        tmp_path, "text-classification", finetuning__epochs=0.2, evaluation__baseline=True
    )
    card = summary(repeat(config, 1, 2).runs)
    names = [row[0] for row in card.rows[3:]]
    assert names == ["mean", "standard deviation", "TF-IDF + linear SVM", "majority"]
    found = [run["table"][1]["accuracy"] for run in card.figures["runs"]]
    assert card.figures["baselines"]["TF-IDF + linear SVM"]["accuracy"] == pytest.approx(sum(found) / 2)


def test_folds_hold_out_every_row_once(tmp_path: Path) -> None:
    config = finetune_config(tmp_path, "text-classification", finetuning__folds=3)
    held = []
    for fold in range(3):
        job = job_of(config).prepare(configs.change(config, {"finetuning.fold": fold}))
        assert isinstance(job, FinetuneJob)
        held += [row.text for row in job.rows.valid]  # pyright: ignore[reportAttributeAccessIssue]
        assert len(job.rows.train) + len(job.rows.valid) == 240
    assert len(held) == 240


def test_batches_waste_little(base: Path) -> None:
    steps = events(base, "step")
    padding = sum(event["padding"] for event in steps) / len(steps)
    assert padding < 0.08  # few rows to choose from; 3 % where there are thousands
