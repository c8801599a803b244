"""What is wrong with labelled rows is found, counted, and shown with its place."""

from __future__ import annotations

import pytest

from melete.data.datasets import data_roots
from melete.data.labelled.rows import LabelledRow, QuestionRow, Span, TagRow, TextRow
from melete.data.labelled.sets import LabelledSet, load_labelled
from melete.data.lint import Finding, drop_leaks, lint
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError

TASKS = {TextRow: "text-classification", TagRow: "token-classification", QuestionRow: "question-answering"}


def rows(*pairs: tuple[str, str], file: str = "train.tsv") -> list[LabelledRow]:
    return [TextRow(text, None, (label,), file=file, line=i) for i, (text, label) in enumerate(pairs, 1)]


GOOD = rows(("the film is good", "1"), ("the film is bad", "0"))
OTHER = rows(("what a fine film", "1"), file="dev.tsv")


def found(train: list[LabelledRow], valid: list[LabelledRow], labels: tuple[str, ...] = ()) -> LabelledSet:
    labels = labels or tuple(sorted({name for row in train for name in row.classes}))
    return LabelledSet("mine", TASKS[type(train[0])], train, valid, labels)


def only(train: list[LabelledRow], valid: list[LabelledRow], **options) -> Finding:
    (finding,) = lint(found(train, valid), **options).findings
    return finding


def test_good_rows_have_no_findings():
    report = lint(found(GOOD, OTHER))
    assert report.findings == ()
    assert report.rows == {"train": 2, "valid": 1}
    assert report.labels == {"0": (1, 0), "1": (1, 1)}
    assert report.characters == (15, 15, 16)
    report.stop(strict=True)


def test_one_class():
    finding = only(rows(("a b c", "1"), ("d e f", "1")), OTHER)
    assert (finding.kind, finding.severity) == ("one-class", "error")
    assert finding.text == "all training rows have the label '1': there is nothing to tell apart"
    with pytest.raises(InputError, match=r"^train.tsv:1: all training rows have the label '1'"):
        lint(found(rows(("a b c", "1"), ("d e f", "1")), OTHER)).stop()


def test_a_label_that_train_has_not():
    finding = only(GOOD, rows(("so so so", "2"), ("meh", "2"), file="dev.tsv"))
    assert (finding.kind, finding.severity, finding.count) == ("unseen-label", "error", 1)
    assert finding.text == "'2': no training row has this label, and 2 validation rows do"
    assert finding.examples == ("dev.tsv:1: so so so", "dev.tsv:2: meh")


def test_a_label_that_no_row_has():
    (finding,) = lint(found(GOOD, OTHER, ("0", "1", "2"))).findings
    assert (finding.kind, finding.severity) == ("unused-label", "warning")


def test_imbalance():
    many = rows(*((f"text number {i}", "b" if i == 7 else "a") for i in range(21)))
    finding = only(many, OTHER[:0] or rows(("other text", "a"), file="dev.tsv"))
    assert finding.text == "label 'a' has 20 rows and 'b' 1; look at macro-F1 too"
    assert finding.examples == ("train.tsv:8: text number 7",)


def test_near_empty_texts():
    finding = only([*GOOD, *rows(("?!", "1"))], OTHER)
    assert (finding.kind, finding.severity, finding.count) == ("near-empty", "warning", 1)
    assert finding.text == "1 of 3 training rows (33.3%) hold at most one letter"


def test_duplicates_and_contradictions():
    again = rows(("the film is good", "1"), ("The film is bad.", "0"), ("the film is bad", "1"))
    first, second = lint(found([*GOOD, *again], OTHER)).findings
    assert (first.kind, first.severity, first.count) == ("conflicts", "warning", 1)
    assert first.examples == ("train.tsv:2: the film is bad (0; 1 in train.tsv:3)",)
    assert (second.kind, second.severity, second.count) == ("duplicates", "note", 3)


def test_leaks_and_what_is_left_without_them():
    valid = rows(
        ("The film is GOOD!", "1"), ("what a fine film", "1"), ("the film is bad", "0"), file="dev.tsv"
    )
    report = lint(found(GOOD, valid))
    (finding,) = report.findings
    assert finding.text == "2 of 3 validation rows (66.7%) stand in train, 1 of them word for word"
    assert finding.examples[0] == "dev.tsv:1: The film is GOOD! (as train.tsv:1)"
    assert report.leaked == (0, 2)
    left = drop_leaks(found(GOOD, valid), report)
    assert [row.texts[0] for row in left.valid] == ["what a fine film"]
    assert lint(left).findings == ()
    with pytest.raises(InputError, match=r"^train.tsv: every validation row stands in train"):
        drop_leaks(found(GOOD, GOOD), lint(found(GOOD, GOOD)))
    with pytest.raises(InputError, match=r"^dev.tsv:1: 2 of 3 validation rows"):
        report.stop(strict=True)
    report.stop()


def test_texts_that_the_model_cannot_read_to_their_end():
    tokenizer = Tokenizer.train(["the film is good bad what a fine"], "word", 20)
    long = rows(("the film is good " * 10, "1"))
    finding = only([*GOOD, *long], OTHER, tokenizer=tokenizer, max_length=20)
    assert finding.text == (
        "33.3% of the training rows are longer than the 20 tokens the model reads, the longest has 40; 41.7% of all "
        "tokens are cut off"
    )


def asked(*spans: Span) -> list[LabelledRow]:
    return [
        QuestionRow("Who is it?", "It is Ann.", (span,), f"q{i}", file="d.json")
        for i, span in enumerate(spans)
    ]


def test_spans_that_do_not_match():
    other = [QuestionRow("When?", "In May.", (Span("May", 3, 3),), "v", file="dev.json")]
    kinds = {f.kind: f for f in lint(found(asked(Span("Ann", 6, 6), Span("Ann", 6, 5)), other)).findings}
    assert kinds["moved-spans"].examples == ("d.json, question q1: 'Ann' at 6, not 5",)
    assert kinds["moved-spans"].severity == "warning"
    report = lint(found(asked(Span("Ann", 6, 6), Span("Bob", None, 6)), other))
    with pytest.raises(InputError, match=r"^d.json, question q1: 1 of 2 training answers .* stand nowhere"):
        report.stop()
    report = lint(found(asked(Span("Ann", 6, 6)), [*other, *asked(Span("Bob", None, 6))]))
    assert [(f.kind, f.severity) for f in report.findings if f.kind == "lost-spans"] == [
        ("lost-spans", "warning")
    ]


def tagged(*sentences: str) -> list[LabelledRow]:
    return [
        TagRow(tuple(f"w{i}{j}" for j in range(len(s.split()))), tuple(s.split()), file="d.conll", line=i)
        for i, s in enumerate(sentences, 1)
    ]


def test_tags_that_continue_nothing():
    finding = only(tagged("B-A I-A O", "O I-A B-A"), tagged("O O O O"))
    assert (finding.kind, finding.count) == ("broken-tags", 1)
    assert finding.examples == ("d.conll:2: w20 w21 w22 (word 2: I-A)",)
    assert lint(found(tagged("I-A I-A O", "O I-A B-A"), tagged("O O O O"))).findings == ()  # IOB1


def test_findings_are_told_errors_first():
    lines: list[str] = []
    bad = [*GOOD, *rows(("?!", "1"), ("the film is bad", "0"))]
    lint(found(bad, rows(("so so so", "2"), file="dev.tsv"))).tell(lines.append)
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == ["error", "warning", "note"]
    assert lines[1] == "    dev.tsv:1: so so so"
    plain = lint(found(bad, OTHER)).plain()
    assert plain["findings"][0]["kind"] == "near-empty"


@pytest.mark.parametrize(
    ("train", "valid", "leaks"),
    [("chnsenticorp", None, "342 of 1,200 validation rows (28.5%) stand in train, 338 of them word for word"),
     ("mr", "sst2", "686 of 872 validation rows (78.7%) stand in train, 11 of them word for word")],
)  # fmt: skip
def test_what_is_known_of_public_sets(train, valid, leaks):
    for name in (train, valid or train):
        if not any((root / name).is_dir() for root in data_roots()):
            pytest.skip(f"{name} is not on this machine")
    rows = load_labelled(train, "text-classification", valid=valid, note=lambda _: None)
    assert leaks in [finding.text for finding in lint(rows).findings]
