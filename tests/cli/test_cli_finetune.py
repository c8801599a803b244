"""`melete finetune`, then `predict` and `evaluate`: three commands from rows to answers, and what each refuses."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from commands import melete
from finetune_rig import BAD, FILL, GOOD, SIZES, write_rows
from melete import config as configs
from melete.cli.finetune import _FLAGS, _SWITCHES, command
from rig import events

TINY = [f"model.config={{{', '.join(f'{key} = {value}' for key, value in SIZES.items())}}}"]
QUICK = [
    "--set",
    *TINY,
    *("--set", "tokenizer.vocab_size=400"),
    *("--set", "training.threads=1"),
    *("--set", "data.valid_fraction=0.2"),
    *("--precision", "float32"),
    *("--context", "32"),
    *("--batch-size", "16"),
    *("--rate", "0.003"),
    *("--no-baseline",),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a person's own, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return tmp_path


def tune(task: str, data: object, *more: object) -> int:
    """Fine-tune a tiny model from scratch."""
    return melete("finetune", task, "--model", "bert:nano", "--data", data, *QUICK, *more)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for text-classification, and its rows beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    write_rows(folder, "text-classification")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda handle: None)
        code = tune("text-classification", "text-classification.jsonl", "--epochs", 8, "--name", "reviews")
    assert code == 0
    return folder / "runs" / "reviews"


def test_three_commands_from_rows_to_answers(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (result,) = events(tuned, "result")
    assert result["table"][0]["accuracy"] > 0.9
    assert (tuned / "report.html").exists()
    assert melete("predict", tuned, "--text", "a wonderful day", "--text", "awful music") == 0
    said = capsys.readouterr()
    first, second = said.out.splitlines()
    assert first.startswith("pos   (pos ")
    assert second.startswith("neg   (neg ")
    assert f"next: melete evaluate {tuned} --data FILE" in said.err
    data = tuned.parents[1] / "text-classification.jsonl"
    assert melete("evaluate", tuned, "--data", data, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 240
    assert figures["table"][0]["accuracy"] > 0.9


def test_each_command_names_the_next(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tuned.parents[1] / "text-classification.jsonl"
    assert melete("evaluate", tuned, "--data", data) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("next: "))
    assert melete(*shlex.split(line.removeprefix("next: melete "))) == 0
    said = capsys.readouterr()
    assert f"next: melete evaluate {tuned} --data {data}" in said.err
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert len(answers) == 240


def test_answers_keep_the_order_of_the_rows_and_do_not_depend_on_the_batch(
    tuned: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(1)
    rows = [" ".join(draw.choices([*FILL, *GOOD, *BAD], k=draw.randint(1, 40))) for _ in range(60)]
    (here / "texts.txt").write_text("\n".join(rows) + "\n")
    (here / "backwards.txt").write_text("\n".join(rows[::-1]) + "\n")
    found = []
    for name in ("texts.txt", "backwards.txt"):
        assert melete("predict", tuned, "--data", name, "--out", "answers.jsonl") == 0
        found.append([json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()])
    for one, other in zip(found[0], found[1][::-1], strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"]["pos"] == pytest.approx(other["probabilities"]["pos"], abs=1e-5)
    alone = []
    for row in rows[:5]:
        assert melete("predict", tuned, "--text", row, "--json") == 0
        alone.append(json.loads(capsys.readouterr().out))
    for one, other in zip(found[0], alone, strict=False):
        assert one["probabilities"]["pos"] == pytest.approx(other["probabilities"]["pos"], abs=1e-5)


def test_the_api_answers_too(tuned: Path) -> None:
    import melete as package

    model = package.load(tuned)
    answer = model.predict("a superb story")
    assert answer["label"] == "pos"
    assert [one["label"] for one in model.predict(["dull", "charming"])] == ["neg", "pos"]


def test_transformers_opens_the_folder_with_its_labels(tuned: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    pipeline = transformers.pipeline("text-classification", str(tuned / "final"), device="cpu")
    assert pipeline("a wonderful day")[0]["label"] == "pos"
    assert pipeline.tokenizer.model_max_length == 32


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "sentence-similarity"])
def test_other_tasks_go_the_same_way(task: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(here, task, 60)
    more = ["--crf"] if task == "token-classification" else []
    assert tune(task, path.name, "--epochs", 1, "--name", "it", *more, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["metric"] in figures["table"][0]
    assert melete("predict", "runs/it", "--data", path.name) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 60
    keys = {"token-classification": "tags", "question-answering": "answer", "sentence-similarity": "score"}
    assert all(keys[task] in answer for answer in answers)
    assert melete("evaluate", "runs/it", "--data", path.name) == 0
    if task == "question-answering":
        assert melete("predict", "runs/it", "--text", "which colour?") == 2
        assert "give rows with question and context: --data FILE" in capsys.readouterr().err
    if task == "token-classification":
        assert melete("predict", "runs/it", "--text", "Anna saw Berlin", "--json") == 0
        assert "entities" in json.loads(capsys.readouterr().out.splitlines()[-1])
        (here / "texts.jsonl").write_text('{"text": "Anna saw Berlin"}\n{"text": "so did Dan"}\n')
        assert melete("predict", "runs/it", "--data", "texts.jsonl") == 0


def test_a_label_file_names_and_orders_the_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"some text number {i}\t{i % 2}" for i in range(30)]
    (here / "d.tsv").write_text(table(*rows))
    (here / "names.txt").write_text("sad\nglad\nnever\n")
    asked = ("d.tsv", "--epochs", 0.5, "--name", "named", "--label-file", "names.txt")
    assert tune("text-classification", *asked) == 0
    assert "'never': the label file has this label, and no training row does" in capsys.readouterr().err
    assert melete("predict", "runs/named", "--text", "some text", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["probabilities"]) == ["sad", "glad", "never"]


def test_seeds_end_with_mean_and_spread(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(here, "text-classification", 60)
    data = "text-classification.jsonl"
    assert tune("text-classification", data, "--epochs", 1, "--name", "s", "--seeds", 2, "--json") == 0
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert figures["summary"]["accuracy"].keys() == {"mean", "sd"}
    assert {Path(run["run"]).name for run in figures["runs"]} == {"s-seed0", "s-seed1"}
    assert "standard deviation" in said.err


def test_the_help_names_every_key_with_a_value_that_it_takes() -> None:
    """What has no flag of its own stands in the help as it is typed."""
    shown = re.findall(r"^ +(finetuning\.\S+=\S+)  +\S", command.help or "", flags=re.M)
    configs.change_by_text(configs.RunConfig(), [*shown, "finetuning.lora.rank=4"])
    told = {line.partition("=")[0].removeprefix("finetuning.").partition(".")[0] for line in shown}
    flags = {path.removeprefix("finetuning.").partition(".")[0] for path in _FLAGS.values()}
    others = {"columns", "folds", "fold", "temperature", "pooling"}  # --column, --folds; beside pairs
    assert set(configs.FinetuningSection.__struct_fields__) <= told | flags | set(_SWITCHES) | others
    assert all(name in (command.help or "") for name in ("temperature", "pooling", "swap, replace and mask"))


# -- what is refused --


def table(*rows: str, header: str = "text\tlabel") -> str:
    return "\n".join([header, *rows]) + "\n"


BOTH = [f"some text number {i}\t{'ab'[i % 2]}" for i in range(20)]


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({"d.tsv": table(*BOTH), "v.tsv": table("x y\tc")}, ["--valid", "v.tsv"], "v.tsv:2: .*'c'"),
        ({"d.tsv": table(*BOTH)}, ["--column", "text=review"], "d.tsv:2: no column 'review'"),
        (
            {"d.tsv": table(*(f"{i}\t{'ab'[i % 2]}" for i in range(20)))},
            ["--column", "text=text"],
            "column 'text' holds numbers",
        ),
        ({"d.tsv": table()}, [], "holds no rows"),
        ({"d.tsv": table(*(f"text {i} of it\ta" for i in range(20)))}, [], "have the label 'a'"),
        ({}, [], "no such file"),
        ({"d.tsv": table(*BOTH)}, ["--metric", "accurracy"], "accurracy.*expected one of accuracy"),
        ({"d.tsv": table(*BOTH)}, ["--lora", "4"], "learnt something"),
        ({"d.tsv": table(*BOTH)}, ["--crf"], "text-classification has no tags; expected token-class"),
        ({"d.tsv": table(*BOTH)}, ["--set", "finetuning.epoch=3"], "unknown key 'finetuning.epoch'"),
        ({"d.tsv": table(*BOTH)}, ["--set", "finetuning.freeze_layers=9"], "the model has 2 layers"),
        (
            {"d.tsv": table(*BOTH)},
            ["--set", "finetuning.augmentation.delete=2"],
            "expected at least 0 and below 1",
        ),
        ({"d.tsv": table(*BOTH)}, ["--set", "finetuning.layer_decay=1.5"], "at least 0 and at most 1"),
        (
            {"d.tsv": table("x y\ta", "X Y!\ta")},
            [],
            "d.tsv: none of 2 rows can be held out: they share one text",
        ),
        ({"d.tsv": table(*BOTH)}, ["--column", "text"], "expected ROLE=NAME"),
        ({"d.tsv": table(*BOTH)}, ["--folds", "1"], "no fold, or several"),
        (
            {"d.tsv": table(*BOTH), "names.txt": "a\nc\n"},
            ["--label-file", "names.txt"],
            r"d.tsv:3: label 'b'; expected a line of names.txt \(2 labels\)",
        ),
        (
            {"d.tsv": table(*BOTH).replace("number 3\tb", "number 3\t")},
            [],
            "d.tsv:5: no label in column 'label'",
        ),
        (
            {"d.tsv": table(*BOTH, *(f"{row} again" for row in BOTH)), "v.tsv": table(*BOTH)},
            ["--valid", "v.tsv", "--strict"],
            "stand in train",
        ),
    ],
)
def test_bad_rows_and_settings_are_one_line_and_leave_nothing(
    files: dict[str, str], more: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (here / name).write_text(text)
    assert tune("text-classification", "d.tsv", "--name", "bad", *more) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("melete: error: ")
    assert re.search(message, lines[-1]), lines[-1]
    assert "Traceback" not in "\n".join(lines)
    assert not (here / "runs" / "bad").exists()


def test_spans_that_stand_nowhere_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [
        {"question": "which?", "context": f"it was {i}", "answers": [{"text": "blue", "answer_start": 3}]}
        for i in range(20)
    ]
    (here / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert tune("question-answering", "d.jsonl", "--name", "bad") == 2
    assert "nowhere in their context" in capsys.readouterr().err.splitlines()[-1]


def test_a_very_long_text_is_cut_and_that_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "d.tsv").write_text(table(*BOTH, "word " * 10_000 + "\ta"))
    assert tune("text-classification", "d.tsv", "--name", "long", "--epochs", 0.5) == 0
    assert "longer than the 32 tokens the model reads" in capsys.readouterr().err


def test_labels_of_another_model_are_refused(
    tuned: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "v.tsv").write_text(table("x y z\tmixed", "x y\tpos"))
    assert melete("evaluate", tuned, "--data", "v.tsv") == 2
    assert f"v.tsv:2: label 'mixed'; expected one that {tuned} has: neg, pos" in capsys.readouterr().err


def test_a_folder_whose_labels_contradict_its_weights_is_refused(
    tuned: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(tuned / "final", here / "copy")
    path = here / "copy" / "config.json"
    values = json.loads(path.read_text()) | {
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
    }
    path.write_text(json.dumps(values))
    assert melete("predict", "copy", "--text", "x") == 2
    assert "which is what config.json says" in capsys.readouterr().err
