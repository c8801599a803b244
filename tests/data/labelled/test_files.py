"""What people have becomes rows of a task: columns are found and told, quotes are left alone, faults have a place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from melete.data.labelled.files import read_labelled
from melete.data.labelled.rows import LabelledRow, QuestionRow, ScoreRow, Span, TagRow, TextRow
from melete.errors import InputError

CLASSES, SCORES, TAGS, QUESTIONS = (
    "text-classification", "sentence-similarity", "token-classification", "question-answering",
)  # fmt: skip


def read(
    tmp_path: Path, text: str, task: str = CLASSES, name: str = "d.tsv", **options
) -> tuple[list, list[str]]:
    """The rows of a file of this text, and what was told."""
    path, notes = tmp_path / name, []
    path.write_text(text, encoding="utf-8")
    return list(read_labelled(str(path), task, note=notes.append, **options)), notes


def texts(rows: Sequence[LabelledRow]) -> list[tuple]:
    return [(row.texts, row.answer) for row in rows]


# -- tables --


def test_columns_are_found_by_name_and_told(tmp_path):
    rows, notes = read(tmp_path, "id,Review,Author,Stars\n7,Good.,Ann,5\n8,Bad.,Bob,1\n", name="d.csv")
    assert texts(rows) == [(("Good.",), ("5",)), (("Bad.",), ("1",))]
    assert rows[0].where == f"{tmp_path}/d.csv:2"
    assert notes == [
        f"{tmp_path}/d.csv: text is column 'Review', label is column 'Stars' (of id, Review, Author, Stars)"
    ]


@pytest.mark.parametrize(
    "header",
    ["sentence1\tsentence2\tlabel", "#1 String\t#2 String\tQuality", "premise\thypothesis\tgold_label",
     "text_a\ttext_b\tlabel", "question1\tquestion2\tis_duplicate"],
)  # fmt: skip
def test_pairs_are_known_by_their_names(tmp_path, header):
    rows, _ = read(tmp_path, f"{header}\na b\tc d\tyes\ne f\tg h\tno\n")
    assert texts(rows) == [(("a b", "c d"), ("yes",)), (("e f", "g h"), ("no",))]


def test_quotes_of_a_tsv_are_letters(tmp_path):
    rows, _ = read(tmp_path, 'sentence\tlabel\n"Open\t1\nHe said "no" .\t0\n')
    assert [row.text for row in rows] == ['"Open', 'He said "no" .']


def test_a_table_without_header_is_read_by_its_content(tmp_path):
    cola = "".join(f"gj0{i % 3}\t{i % 2}\t\tSome sentence of number {i} stands.\n" for i in range(30))
    rows, notes = read(tmp_path, cola)
    assert texts(rows)[:1] == [(("Some sentence of number 0 stands.",), ("0",))]
    assert len(rows) == 30
    assert "no header; text is column '4', label is column '2' (of 1, 2, 3, 4)" in notes[0]
    mrpc = "".join(
        f"{i % 2}\t{i + 700}\t{i + 800}\tA man of {i} years sat .\tIn {i} years he sat .\n" for i in range(9)
    )
    rows, _ = read(tmp_path, mrpc)
    assert texts(rows)[0] == (("A man of 0 years sat .", "In 0 years he sat ."), ("0",))
    titles = '"1","A short text"\n"2","Another ""short"" text"\n'
    assert texts(read(tmp_path, titles, name="d.csv")[0])[1] == (('Another "short" text',), ("2",))


def test_names_that_nobody_knows_are_still_names(tmp_path):
    body = "".join(f"una frase numero {i} di prova\t{'buono' if i % 2 else 'cattivo'}\n" for i in range(12))
    rows, notes = read(tmp_path, "recensione\tgiudizio\n" + body)
    assert len(rows) == 12
    assert "text is column 'recensione', label is column 'giudizio'" in notes[0]
    assert len(read(tmp_path, body)[0]) == 12


def test_a_person_names_columns_by_name_or_number(tmp_path):
    table = "label,body,summary,kind\n1,long text,short,a\n0,other text,brief,b\n"
    named = {"text": "summary", "label": "kind"}
    assert texts(read(tmp_path, table, name="d.csv", columns=named)[0])[0] == (("short",), ("a",))
    bare = "x\tsome words\t1\ny\tother words\t0\n"
    rows, _ = read(tmp_path, bare, columns={"text": "2", "label": "1"})
    assert texts(rows) == [(("some words",), ("x",)), (("other words",), ("y",))]


def test_several_labels(tmp_path):
    lines = '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n'
    assert [row.labels for row in read(tmp_path, lines, name="d.jsonl")[0]] == [("x", "y"), ()]
    rows, _ = read(tmp_path, "text,topics\na b,x|y\nc d,y\ne f,\n", name="d.csv")
    assert [row.labels for row in rows] == [("x", "y"), ("y",), ()]
    table = "comment_text,toxic,insult\nso so,0,1\noh no,1,1\nhi,0,0\n"
    rows, notes = read(tmp_path, table, name="d.csv", columns={"text": "comment_text"})
    assert [row.labels for row in rows] == [("insult",), ("toxic", "insult"), ()]
    assert "labels are the columns 'toxic', 'insult'" in notes[0]
    assert [row.labels for row in read(tmp_path, "text\tlabels\na b\tx\nc d\ty\n")[0]] == [("x",), ("y",)]


def test_labels_of_json_are_texts(tmp_path):
    lines = '{"text": "a", "label": 1}\n{"text": "b", "label": 2.0}\n{"text": "c", "label": true}\n'
    assert [row.labels for row in read(tmp_path, lines, name="d.jsonl")[0]] == [("1",), ("2",), ("true",)]


def test_texts_with_tabs_or_bars_between(tmp_path):
    rows, _ = read(tmp_path, "股市上涨了\t2\n球队赢了\t7\n", name="train.txt")
    assert texts(rows) == [(("股市上涨了",), ("2",)), (("球队赢了",), ("7",))]
    bars = "2012test-0001||飞机要起飞了。||飞机正在起飞。||5\n2012test-0002||他吹笛子。||一个人吹长笛。||3\n"
    rows, _ = read(tmp_path, bars, SCORES, "sts.txt")
    assert rows[1] == ScoreRow("他吹笛子。", "一个人吹长笛。", 3.0, file=rows[0].file, line=2)


def test_scores(tmp_path):
    header = "index\tgenre\tyear\told_index\tsentence1\tsentence2\tscore\n"
    lines = "".join(f"{i}\tnews\t2012\t000{i}\tA man of {i}.\tThe man {i}.\t{i}.250\n" for i in range(5))
    for text in (header + lines, lines):
        rows, _ = read(tmp_path, text, SCORES)
        assert texts(rows)[2] == (("A man of 2.", "The man 2."), 2.25)


def test_rows_without_answers_are_for_prediction(tmp_path):
    rows, _ = read(tmp_path, "text\na b\nc d\n", name="d.csv", labelled=False)
    assert texts(rows) == [(("a b",), None), (("c d",), None)]
    assert rows[0].inputs.values == {"text": "a b"}
    rows, _ = read(tmp_path, "fine\nwords\n", TAGS, "d.conll", labelled=False)
    assert rows == [TagRow(("fine", "words"), None, file=rows[0].file, line=1)]
    rows, _ = read(tmp_path, "sentence1\tsentence2\na\tb\n", SCORES, labelled=False)
    assert texts(rows) == [(("a", "b"), None)]


def test_packed_files_and_parquet(tmp_path):
    (tmp_path / "d.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\nfine\t1\n"))
    assert [row.answer for row in read_labelled(str(tmp_path / "d.tsv.gz"), CLASSES)] == [("1",)]
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"tokens": [["He", "ran"]], "ner_tags": [[1, 0]]})
    parquet.write_table(table, tmp_path / "d.parquet")
    (row,) = read_labelled(str(tmp_path / "d.parquet"), TAGS)
    assert row == TagRow(("He", "ran"), ("1", "0"), file=str(tmp_path / "d.parquet"), line=1)


# -- words and tags --


def test_conll_columns(tmp_path):
    conll = "-DOCSTART- -X- O\n\nEU NNP B-ORG\n# NN O\n\n\nPeter NNP B-PER\n"
    rows, notes = read(tmp_path, conll, TAGS, "d.conll")
    assert [(row.words, row.tags, row.line) for row in rows] == [
        (("EU", "#"), ("B-ORG", "O"), 3),
        (("Peter",), ("B-PER",), 7),
    ]
    assert notes == [f"{tmp_path}/d.conll: the word in column 1, the tag in column 3 (of 3)"]
    rows, _ = read(tmp_path, conll, TAGS, "d.conll", columns={"tags": "2"})
    assert rows[0].tags == ("NNP", "NN")


def test_conll_u(tmp_path):
    def line(*fields: str) -> str:
        return "\t".join([*fields, *"_" * (10 - len(fields))]) + "\n"

    text = "# text = don't go\n# newpar\n" + line("1-2", "don't")
    text += line("1", "do", "do", "AUX", "VBP") + line("2", "n't", "not", "PART", "RB")
    text += line("2.1", "we") + line("3", "go", "go", "VERB", "VB") + "\n"
    rows, _ = read(tmp_path, text, TAGS, "d.conllu")
    assert [(row.words, row.tags) for row in rows] == [(("do", "n't", "go"), ("AUX", "PART", "VERB"))]
    rows, _ = read(tmp_path, text, TAGS, "d.conllu", columns={"tags": "xpos"})
    assert rows[0].tags == ("VBP", "RB", "VB")


def test_chinese_characters_a_line(tmp_path):
    rows, _ = read(tmp_path, "高 B-NAME\n勇 E-NAME\n\u3000 O\n\n男 O\n", TAGS, "d.char.bmes")
    assert [row.words for row in rows] == [("高", "勇", "\u3000"), ("男",)]
    assert rows[0].texts == ("高勇\u3000",)
    numbered = "口0\tO\n腔1\tO\n110\tO\n\ufffd\ufffd0\tO\n \t\n你0\tB-PER.NOM\n"
    rows, notes = read(tmp_path, numbered, TAGS, "d.dev")
    assert [row.words for row in rows] == [("口", "腔", "1", "\ufffd\ufffd"), ("你",)]
    assert notes[0].endswith("; the numbers behind the characters are dropped")


# -- questions --


def squad(**question) -> str:
    qas = [{"id": "q1", "question": "Who?", **question}]
    return json.dumps({"data": [{"paragraphs": [{"context": "Ann met Bob. Ann left.", "qas": qas}]}]})


def test_squad_json(tmp_path):
    answers = [{"text": "Ann", "answer_start": 13}, {"text": "Bob", "answer_start": 8}]
    (row,), _ = read(tmp_path, squad(answers=answers), QUESTIONS, "d.json")
    assert row.answers == (Span("Ann", 13, 13), Span("Bob", 8, 8))
    assert row.where == f"{tmp_path}/d.json, question q1"
    assert row.inputs.values == {"id": "q1", "question": "Who?", "context": "Ann met Bob. Ann left."}
    (row,), _ = read(tmp_path, squad(answers=answers, is_impossible=True), QUESTIONS, "d.json")
    assert row.answers == ()


def test_answers_are_moved_to_where_they_stand(tmp_path):
    answers = [{"text": text, "answer_start": at} for text, at in (("Ann", 11), ("Ann", -1), ("Zoe", 3))]
    (row,), _ = read(tmp_path, squad(answers=answers), QUESTIONS, "d.json")
    assert row.answers == (Span("Ann", 13, 11), Span("Ann", 0, -1), Span("Zoe", None, 3))


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "Ann", "answer_start": 13}],
        {"text": ["Ann"], "answer_start": [13]},
    ],
)
def test_questions_in_rows(tmp_path, answers):
    line = {"question": "Who left?", "context": "Ann met Bob. Ann left.", "answers": answers}
    (row,), _ = read(tmp_path, json.dumps(line), QUESTIONS, "d.jsonl")
    assert row == QuestionRow(
        "Who left?", "Ann met Bob. Ann left.", (Span("Ann", 13, 13),), "1", file=row.file, line=1
    )
    table = "question\tcontext\tanswer\nWho?\tAnn met Bob.\tBob\nWhen?\tAnn met Bob.\t\n"
    rows, _ = read(tmp_path, table, QUESTIONS)
    assert [row.answers for row in rows] == [(Span("Bob", 8, None),), ()]


# -- faults --


@pytest.mark.parametrize(
    ("task", "name", "text", "message"),
    [
        (CLASSES, "d.csv", "text,label\n", "d.csv: holds no rows"),
        (CLASSES, "d.csv", "text,kind,tone\na b,1,x\nc d,0,y\n", r"d.csv:2: which column is the label\?"),
        (CLASSES, "d.tsv", "text\tlabel\na\t1\tb\n", "d.tsv:2: 3 fields in this row; expected 2"),
        (CLASSES, "d.csv", "text,label\n17,a\n18,b\n", "d.csv:2: column 'text' holds numbers .*'17'"),
        (CLASSES, "d.csv", "text,label\na,x\nb,\n", "d.csv:3: no label in column 'label'"),
        (CLASSES, "d.jsonl", '{"text": "a", "label": "x"}\n{"text": 5}', "d.jsonl:2: column 'text' holds i"),
        (CLASSES, "d.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}', "d.jsonl:2: no column 'text'"),
        (CLASSES, "d.csv", "text,text,label\na,b,x\n", "d.csv:1: column 'text' stands twice"),
        (CLASSES, "d.txt", "only a text\n", "d.txt: not a table: no tab on each line"),
        (SCORES, "d.csv", "sentence1,sentence2,score\na,b,high\n", "d.csv:2: score 'high' .* a number"),
        (SCORES, "d.csv", "text,score\na b,1.5\nc d,2.5\n", r"d.csv:2: which column is the text_pair\?"),
        (TAGS, "d.conll", "a O\nb\n", "d.conll:2: 1 columns; expected 2"),
        (TAGS, "d.conll", "a\nb\n", "d.conll:1: no tag beside the word"),
        (TAGS, "d.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', "d.jsonl:1: 2 words and 1 tags"),
        (QUESTIONS, "d.json", '{"data": [{"paragraphs": [{"qas": []}]}]}', "d.json: not in the form of .*context"),
        (QUESTIONS, "d.json", '{"data": [', "d.json: broken JSON"),
        (QUESTIONS, "d.json", squad(), "d.json, question q1: no answer beside this row"),
        (QUESTIONS, "d.jsonl", '{"question": "?", "context": "c", "answers": [1]}', "d.jsonl:1: answers that cannot"),
    ],
)  # fmt: skip
def test_faults_have_a_place_and_a_line(tmp_path, task, name, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text, task, name)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_names_the_nearest(tmp_path):
    with pytest.raises(
        InputError, match=r"no column 'revew'; expected columns review, label; did you mean 'review'"
    ):
        read(tmp_path, "review,label\na b,1\n", name="d.csv", columns={"text": "revew"})
    with pytest.raises(
        InputError, match=r"text-classification has no column for 'words'; expected one of text"
    ):
        read(tmp_path, "review,label\na b,1\n", name="d.csv", columns={"words": "review"})


def test_rows_stream(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n' * 1500 + "broken\n", encoding="utf-8")
    rows = read_labelled(str(path), CLASSES)
    assert next(rows) == TextRow("a", None, ("x",), file=str(path), line=1)
