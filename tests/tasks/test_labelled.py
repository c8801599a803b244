"""Predictors of tasks with labels: whatever the batch, the same answers, in order; long texts in windows."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kit
from melete.data.readers import Row
from melete.errors import InputError
from melete.models.checkpoint import save_model
from melete.nn.crf import LinearChain
from melete.tasks import predictor_class, task_of
from melete.tasks.token_classification import spaced, words_of
from task_examples import KINDS, SENTENCES, predictor

LABELS = {
    "text-classification": ["bad", "fair", "good"],
    "token-classification": ["O", "B-LOC", "I-LOC"],
    "question-answering": [],
}


def rows(task: str, count: int = 30) -> list[Row]:
    """Rows of very different lengths; some are empty, some longer than the model reads."""
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.choice(SENTENCES, n))[: int(rng.integers(0, 150))] for n in rng.integers(1, 5, count)
    ]
    values: list[dict[str, Any]] = [{"text": text} for text in texts]
    if task == "question-answering":
        values = [{"question": SENTENCES[i % 6][:40], "context": text} for i, text in enumerate(texts)]
    elif task == "text-classification":
        values = [row | {"text_pair": SENTENCES[i % 6]} if i % 3 else row for i, row in enumerate(values)]
    return [Row(row, "rows.jsonl", i) for i, row in enumerate(values, 1)]


def flat(answer: Any) -> list[Any]:
    """The plain values of an answer, in order."""
    if isinstance(answer, dict):
        return [leaf for key in sorted(answer) for leaf in (key, *flat(answer[key]))]
    return [leaf for one in answer for leaf in flat(one)] if isinstance(answer, list | tuple) else [answer]


def same(one: Any, other: Any) -> bool:
    """Equal, numbers up to rounding."""
    pairs = list(zip(flat(one), flat(other), strict=True))
    return all(abs(a - b) <= 1e-5 if isinstance(a, float) else a == b for a, b in pairs)


@pytest.mark.parametrize("family", kit.LABELLED)
@pytest.mark.parametrize("task", KINDS)
def test_answers_do_not_depend_on_the_batch(task: str, family: str) -> None:
    model = predictor(family, task, id2label=LABELS[task])
    wanted = rows(task)
    alone = [next(iter(model.stream([row]))) for row in wanted]
    for budget in (50, 4096):
        assert all(same(a, b) for a, b in zip(model.stream(wanted, budget=budget), alone, strict=True))
    backwards = list(model.stream(wanted[::-1]))[::-1]
    assert all(same(a, b) for a, b in zip(backwards, alone, strict=True))


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_a_hundred_thousand_rows_is_answered_in_flat_memory(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(100_000):
            text = " ".join(rng.choices(SENTENCES, k=2))[: rng.randrange(10, 80)]
            file.write(json.dumps({"id": i, "text": text, "label": "good"}) + "\n")
    model = predictor("bert", "text-classification", id2label=LABELS["text-classification"])
    answers = model.stream(model.read(str(path), {}))
    for _ in range(20_000):  # a window, and what the allocator keeps
        next(answers)
    before = most = resident()
    count = 20_000
    for _ in answers:
        count += 1
        most = max(most, resident()) if count % 1000 == 0 else most
    assert count == 100_000
    assert most - before < 20 << 20


@pytest.mark.parametrize("task", KINDS)
def test_a_saved_folder_gives_the_same_answers(task: str, tmp_path: Path) -> None:
    model = predictor("bert", task, id2label=LABELS[task])
    model.tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "model", model.model, tokenizer=tmp_path / "tokenizer")
    assert task_of(tmp_path / "model") == task
    again = predictor_class(task).load(tmp_path / "model")
    first, second = (list(one.stream(rows(task))) for one in (model, again))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    words = [again.in_words(answer) for answer in second]
    assert all(isinstance(text, str) for text in words)


# -- texts --


def test_probabilities_are_a_distribution_or_one_for_each_label() -> None:
    single = predictor("bert", "text-classification", id2label=LABELS["text-classification"])
    for answer in single.predict(list(SENTENCES)):
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-6)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    several = predictor(
        "bert", "text-classification", id2label=["a", "b"], problem_type="multi_label_classification"
    )
    for threshold in (0.0, 0.5, 1.0):
        for answer in several.predict(list(SENTENCES), threshold=threshold):
            assert answer["labels"] == [n for n, p in answer["probabilities"].items() if p >= threshold]
    number = predictor("bert", "text-classification", id2label=["score"], problem_type="regression")
    assert number.predict(SENTENCES[0]).keys() == {"score"}
    with pytest.raises(InputError, match="threshold is 2; expected between 0 and 1"):
        several.predict("x", threshold=2)


@pytest.mark.parametrize("family", kit.LABELLED)
def test_labels_and_probabilities_are_those_of_the_pipeline(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    model = predictor(family, "text-classification", id2label=LABELS["text-classification"])
    model.tokenizer.config["model_max_length"] = 32
    model.tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "model", model.model, tokenizer=tmp_path / "tokenizer")
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "model"), device="cpu")
    for text in (*SENTENCES, " ".join(SENTENCES)):
        theirs = pipeline(text, top_k=None, truncation=True)
        ours = model.predict(text)
        assert ours["label"] == theirs[0]["label"]
        for one in theirs:
            assert ours["probabilities"][one["label"]] == pytest.approx(one["score"], abs=1e-5)


def test_a_text_is_cut_where_it_was_cut_in_training() -> None:
    model = predictor("bert", "text-classification")
    long = " ".join(SENTENCES)
    (piece,) = model.cut(Row({"text": long}, "x", 1))
    assert len(piece.ids) == 32
    model.tokenizer.config["model_max_length"] = 12
    try:
        (piece,) = predictor("bert", "text-classification").cut(Row({"text": long}, "x", 1))
        assert len(piece.ids) == 12
        assert piece.ids[-1] == model.tokenizer.sep_id
    finally:
        del model.tokenizer.config["model_max_length"]


# -- words --


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_every_word_of_a_long_sentence_is_tagged_once(family: str) -> None:
    model = predictor(family, "token-classification", id2label=LABELS["token-classification"])
    for words in (" ".join(SENTENCES * 3).split(), list("我喜欢自然语言处理北京" * 12), ["lobster"]):
        row = Row({"words": words}, "x", 1)
        pieces = model.cut(row)
        assert (len(pieces) > 1) == (len(words) > 20)
        decided = np.concatenate([piece.data.words for piece in pieces])
        assert decided.tolist() == list(range(len(words)))
        for piece in pieces:
            assert len(piece.ids) <= 32
            for word, column in zip(piece.data.words, piece.data.columns, strict=True):
                token = model.tokenizer.decode([piece.ids[column]]).strip().removeprefix("##")
                assert words[word].lower().startswith(token.lower()) or "\ufffd" in token or token == ""
        answer = model.predict({"words": words})
        assert answer["words"] == words
        assert len(answer["tags"]) == len(answer["probabilities"]) == len(words)


def test_words_are_read_or_cut() -> None:
    assert words_of(Row({"text": "Mr. O'Neil saw 北京 (twice)!"}, "x", 1)) == [
        *("Mr", ".", "O", "'", "Neil", "saw", "北", "京", "(", "twice", ")", "!")
    ]
    assert "".join(spaced(["I", "saw", "北", "京", "。", "Twice", "."])) == "I saw 北京。 Twice ."
    with pytest.raises(InputError, match="x:1: `words` is no list of texts"):
        words_of(Row({"words": "a b"}, "x", 1))


def test_entities_are_told_where_tags_mark_them() -> None:
    model = predictor("bert", "token-classification", id2label=["O", "B-LOC", "I-LOC"])
    row = Row({"words": ["from", "New", "York", "to", "北", "京"]}, "x", 1)
    pieces = model.cut(row)
    labels, shares = np.array([0, 1, 2, 0, 1, 2]), np.full(6, 0.5)
    answer = model.answer(row, pieces, [(labels, shares)])
    assert answer["entities"] == [
        {"label": "LOC", "text": "New York", "words": [1, 3]},
        {"label": "LOC", "text": "北京", "words": [4, 6]},
    ]
    assert model.in_words(answer) == "New York (LOC), 北京 (LOC)"
    plain = predictor("bert", "token-classification", id2label=["NOUN", "VERB"])
    assert "entities" not in plain.predict("so it is")


def test_a_crf_decides_sentences_as_wholes() -> None:
    model = predictor("bert", "token-classification", id2label=LABELS["token-classification"])
    chain = LinearChain(3)
    with torch.no_grad():
        chain.transitions[:, 2] = -1e4  # nothing leads to I-LOC
        chain.first[2] = -1e4
    from dataclasses import replace

    texts = [*SENTENCES, " ".join(SENTENCES)]
    assert any("I-LOC" in answer["tags"] for answer in model.predict(texts))
    tagged = replace(model, crf=chain).predict(texts)
    assert not any("I-LOC" in answer["tags"] for answer in tagged)
    assert all(0 < share <= 1 for answer in tagged for share in answer["probabilities"])


# -- questions --


def test_answers_stand_in_the_context_and_the_best_one_is_found() -> None:
    model = predictor("bert", "question-answering", id2label=[])
    context = " ".join(SENTENCES)
    answer = model.predict({"question": "Who wrote it?", "context": context}, top_k=5)
    assert context[answer["start"] :].startswith(answer["answer"])
    assert [one["score"] for one in answer["answers"]] == sorted(
        (one["score"] for one in answer["answers"]), reverse=True
    )
    row = Row({"question": "Who wrote it?", "context": context}, "x", 1)
    pieces = model.cut(row)
    assert len(pieces) > 2
    scores = torch.zeros(len(pieces), 32, 2)
    start = context.index("Jane Doe")
    for i, piece in enumerate(pieces):
        for j, (low, high) in enumerate(piece.data.spans.tolist()):
            scores[i, piece.data.column + j, 0] = 9.0 * (low == start)
            scores[i, piece.data.column + j, 1] = 9.0 * (high == start + len("Jane Doe"))
    found = model.answer(row, pieces, model.outputs(scores, pieces))
    assert (found["answer"], found["start"]) == ("Jane Doe", start)
    assert found["score"] > 0.99


def test_no_answer_is_one_where_the_model_knows_it() -> None:
    model = predictor("bert", "question-answering", id2label=[])
    row = Row({"question": "Why?", "context": SENTENCES[0]}, "x", 1)
    pieces = model.cut(row)
    scores = torch.zeros(len(pieces), len(pieces[0].ids), 2)
    scores[:, 0] = 5.0
    outputs = model.outputs(scores, pieces)
    assert model.answer(row, pieces, outputs)["answer"] != ""
    nothing = model.with_settings(no_answer=True).answer(row, pieces, outputs)
    assert (nothing["answer"], nothing["start"]) == ("", None)
    assert model.predict({"question": "Why?", "context": ""}) == {"answer": "", "start": None, "score": 1.0}
    with pytest.raises(InputError, match="top_k is 0; expected 1 or more"):
        model.with_settings(top_k=0)


def test_a_row_without_a_column_is_refused_with_its_place() -> None:
    model = predictor("bert", "question-answering", id2label=[])
    with pytest.raises(InputError, match=r"q\.json:3: no column 'context'"):
        list(model.stream([Row({"question": "Why?"}, "q.json", 3)]))
