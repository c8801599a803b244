"""Named sets, folders and files as training and validation rows; what is held out is fair and stays apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from melete.data.datasets import data_roots
from melete.data.labelled.rows import (
    LABELLED_TASKS,
    TEXT_TO_TEXT,
    QuestionRow,
    ScoreRow,
    TagRow,
    TextRow,
    same_text,
)
from melete.data.labelled.sets import SETS, LabelledSet, labelled_catalogue, load_labelled
from melete.data.labelled.splits import folds, hold_out
from melete.errors import InputError

CLASSES = "text-classification"


def quiet(note: str) -> None:
    """Notes are tested where they are made."""


def real(name: str) -> LabelledSet:
    if not any((root / name.partition(":")[0]).is_dir() for root in data_roots()):
        pytest.skip(f"{name} is not on this machine")
    return load_labelled(name, SETS[name].task, note=quiet)


def text_rows(*labels: str, same: int = 0) -> list[TextRow]:
    """A row for each label; the last `same` read like the first."""
    first_copy = len(labels) - same
    return [TextRow(f"text {i if i < first_copy else 0}", None, (label,)) for i, label in enumerate(labels)]


# -- named sets --


@pytest.mark.parametrize(
    ("name", "train", "valid", "labels"),
    [
        ("sst2", 6920, 872, 2), ("sst2:phrases", 67349, 872, 2), ("sst5", 8544, 1101, 5), ("mr", 7814, 868, 2),
        ("ag_news", 8989, 1000, 4), ("chnsenticorp", 9600, 1200, 2), ("csl_title", 8000, 1000, 13),
        ("mrpc", 3668, 408, 2), ("cola", 8551, 1043, 2), ("rte", 2490, 277, 2), ("sts_b", 5749, 1500, 0),
        ("sts_b_zh", 5231, 1458, 0), ("weibo_ner", 1350, 270, 17), ("resume_ner", 3821, 463, 28),
        ("wnut17", 3394, 1009, 13), ("cmrc2018", 10142, 1608, 0), ("xquad:zh", 533, 61, 0),
        ("ud_chinese_gsd_v1", 3997, 500, 15), ("trec:fine", 4907, 545, 50),
    ],
)  # fmt: skip
def test_named_sets_have_the_rows_they_are_known_for(name, train, valid, labels):
    found = real(name)
    assert (len(found.train), len(found.valid), len(found.labels)) == (train, valid, labels)
    assert not found.multi_label


def test_glue_rows_are_whole():
    assert (
        real("mrpc")
        .train[0]
        .texts[0]
        .startswith('Amrozi accused his brother , whom he called " the witness "')
    )
    row = real("cola").valid[0]
    assert (row.texts, row.answer) == (("The sailors rode the breeze clear of the rocks.",), ("1",))
    row = real("sts_b_zh").train[0]
    assert (row.texts, row.answer) == (("一架飞机要起飞了。", "一架飞机正在起飞。"), 5.0)


def test_numbers_get_the_names_of_the_label_file():
    assert real("ag_news").labels == ("World", "Sports", "Business", "Sci/Tech")
    assert real("ag_news").train[0].answer == ("World",)
    trec = real("trec")
    assert trec.labels == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert len(trec.train) + len(trec.valid) == 5452


def test_every_named_set_is_listed():
    assert {entry["name"] for entry in labelled_catalogue()} == set(SETS)
    assert {recipe.task for recipe in SETS.values()} == set(LABELLED_TASKS) - {TEXT_TO_TEXT}


def test_what_a_named_set_is_not(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MELETE_DATA", str(tmp_path))
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    for name, task, message in [
        (
            "sst2",
            "question-answering",
            "sst2: this set is for text-classification; expected a set for question",
        ),
        ("sst2", CLASSES, "sst2: this set is not on this machine .looked in .*; set MELETE_DATA"),
        ("ss2", CLASSES, "ss2: no such file, folder or named set; did you mean sst2"),
        ("sst2", "poetry", "no rows for task 'poetry'; expected one of text-classification"),
    ]:
        with pytest.raises(InputError, match=message):
            load_labelled(name, task)
    (tmp_path / "sst2").mkdir()
    with pytest.raises(InputError, match=r"the folder of sst2 is not complete; expected train\.tsv, or"):
        load_labelled("sst2", CLASSES)


# -- a person's own --


def write(path: Path, *rows: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("text\tlabel\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_folder_is_known_by_the_names_of_its_parts(tmp_path):
    folder = tmp_path / "mine"
    write(folder / "my-train.tsv", "good one\t1", "bad one\t0")
    write(folder / "my-val.tsv", "fine one\t1")
    write(folder / "my-test.tsv", "other\t0")
    (folder / "README.md").write_text("train and dev")
    found = load_labelled(str(folder), CLASSES, note=quiet)
    assert [row.texts[0] for row in found.train] == ["good one", "bad one"]
    assert [row.texts[0] for row in found.valid] == ["fine one"]
    other = load_labelled(
        write(tmp_path / "d.tsv", "a b\t1", "c d\t0"), CLASSES, valid=str(folder), note=quiet
    )
    assert other.valid == found.valid
    write(folder / "train2.tsv", "good one\t1")
    with pytest.raises(
        InputError, match=r"mine: 2 files could be one part: my-train.tsv, train2.tsv; name the files"
    ):
        load_labelled(str(folder), CLASSES)


def test_what_is_held_out_is_told(tmp_path):
    notes: list[str] = []
    rows = [f"text {i}\t{i % 2}" for i in range(40)]
    found = load_labelled(write(tmp_path / "d.tsv", *rows), CLASSES, note=notes.append)
    assert (len(found.train), len(found.valid), found.labels) == (36, 4, ("0", "1"))
    assert notes[-1] == "held out 4 of 40 rows, seed 0; rows that read the same are kept together"


def test_labels_stand_in_order(tmp_path):
    path = write(
        tmp_path / "d.tsv", *(f"text {i}\t{label}" for i, label in enumerate(["10", "9", "b", "O", "a"] * 2))
    )
    assert load_labelled(path, CLASSES, valid=path, note=quiet).labels == ("O", "9", "10", "a", "b")


def test_a_label_file_orders_and_names(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    zero = write(tmp_path / "zero.tsv", "a b\t0", "c d\t2")
    one = write(tmp_path / "one.tsv", "a b\t1", "c d\t3")
    named = write(tmp_path / "named.tsv", "a b\tred", "c d\tblue")
    for path in (zero, one, named):
        found = load_labelled(path, CLASSES, valid=path, label_file=str(names), note=quiet)
        assert found.labels == ("red", "green", "blue")
        assert [row.answer for row in found.train] == [("red",), ("blue",)]
    wrong = write(tmp_path / "wrong.tsv", "a b\t0", "c d\t3")
    with pytest.raises(
        InputError, match=r"wrong.tsv:3: label '3'; expected a line of .*names.txt \(3 labels, from 0\)"
    ):
        load_labelled(wrong, CLASSES, valid=wrong, label_file=str(names), note=quiet)
    with pytest.raises(InputError, match=r"zero.tsv:2: label '0'; expected a line of"):
        load_labelled(named, CLASSES, valid=zero, label_file=str(names), note=quiet)
    names.write_text("red\nred\n")
    with pytest.raises(InputError, match=r"names.txt: names the label 'red' twice"):
        load_labelled(zero, CLASSES, label_file=str(names), note=quiet)


# -- holding out --


def test_every_label_gives_its_share():
    rows = text_rows(*("a" * 60 + "b" * 30 + "c" * 10))
    train, valid = hold_out(rows, 0.1, seed=0)
    assert Counter(row.labels for row in valid) == {("a",): 6, ("b",): 3, ("c",): 1}
    assert len(train) + len(valid) == 100
    assert not {row.text for row in train} & {row.text for row in valid}


def test_the_seed_and_the_texts_decide_and_their_order_does_not():
    rows = text_rows(*"ab" * 50)
    again = hold_out(rows[::-1], 0.2, seed=3)[1]
    assert {row.text for row in again} == {row.text for row in hold_out(rows, 0.2, seed=3)[1]}
    assert {row.text for row in again} != {row.text for row in hold_out(rows, 0.2, seed=4)[1]}


def test_what_reads_the_same_stays_together():
    rows = text_rows(*"ab" * 50, same=30)
    for seed in range(5):
        train, valid = hold_out(rows, 0.2, seed)
        assert not {row.text for row in train} & {row.text for row in valid}
    assert same_text(["Don't go ."]) == same_text(["dont  GO"])
    assert same_text(["ｆｕｌｌ！"]) == same_text(["full"])
    assert same_text([":)"]) != same_text([":("])


def test_questions_on_one_context_stay_together():
    rows = [QuestionRow(f"q{i}?", f"context {i // 4}", (), str(i)) for i in range(80)]
    train, valid = hold_out(rows, 0.25, seed=0)
    assert len(valid) == 20
    assert not {row.context for row in train} & {row.context for row in valid}


def test_scores_and_rare_tags_are_spread():
    rows = [ScoreRow(f"a{i}", f"b{i}", i / 20) for i in range(100)]
    held = sorted(row.score or 0 for row in hold_out(rows, 0.1, seed=0)[1])
    assert [int(score * 2) for score in held] == list(range(10))
    tagged = [TagRow((f"w{i}", "x"), ("O", "B-LOC" if i % 10 == 0 else "O")) for i in range(100)]
    assert sum("B-LOC" in (row.tags or ()) for row in hold_out(tagged, 0.2, seed=0)[1]) == 2


def test_what_cannot_be_split_says_so():
    with pytest.raises(InputError, match="none of 1 rows can be held out; give more rows"):
        hold_out(text_rows("a"), 0.1, seed=0)
    with pytest.raises(InputError, match=r"valid_fraction is 0\.7"):
        hold_out(text_rows("a", "b"), 0.7, seed=0)
    assert len(hold_out(text_rows("a", "b", "a"), 0.1, seed=0)[1]) == 1


def test_folds_are_even_and_keep_together():
    rows = text_rows(*("a" * 60 + "b" * 40), same=3)
    fold = folds(rows, 5, seed=0)
    sizes = Counter(fold)
    assert set(sizes) == set(range(5))
    assert max(sizes.values()) - min(sizes.values()) <= 3
    assert {fold[0], *fold[97:]} == {fold[0]}
    per_label = Counter((each, row.labels) for each, row in zip(fold, rows, strict=True))
    assert min(per_label.values()) >= 7
    with pytest.raises(InputError, match="3 folds of 2 rows"):
        folds(text_rows("a", "b"), 3, seed=0)
