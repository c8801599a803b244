"""Summaries of whole sentences: windows decide each sentence once, and `transformers` scores them alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import kit
from melete.api import load
from melete.data.readers import Row
from melete.data.sentences import split_sentences
from melete.errors import InputError
from melete.export.export import export_model
from melete.models.checkpoint import save_model
from melete.models.purpose import Purpose, write_purpose
from melete.tasks import EXTRACTION, task_of
from melete.tasks.extractive_summarization import ExtractiveSummarization
from task_examples import SENTENCES, tokenizer

TEXT = "Who wrote it? It was written by Jane Doe in 1930. 我喜欢北京。\nBerlin and Paris are cities! A moving film."


def scorer(family: str) -> ExtractiveSummarization:
    """A predictor over a tiny random model that reads 32 tokens."""
    own = tokenizer("wordpiece")
    ids = {f"{role}_token_id": getattr(own, f"{role}_id") for role in ("bos", "eos", "pad")}
    fields = {"vocab_size": own.vocab_size, "id2label": ["summary"], **ids}
    model = kit.tiny_network(family, "token-classification", **fields)
    return ExtractiveSummarization(model, own, Path())


@pytest.mark.parametrize("family", kit.ENCODER_SIZES)
def test_each_sentence_is_scored_once_whatever_stands_beside_it(family: str) -> None:
    model = scorer(family).with_settings(sentences=99)
    texts = [TEXT, TEXT * 4, "", "one", " ".join(SENTENCES)]
    rows = [Row({"text": text}, "rows.jsonl", i) for i, text in enumerate(texts, 1)]
    together = list(model.stream(rows))
    for row, answer in zip(rows, together, strict=True):
        (alone,) = model.stream([row])
        text = row.values["text"]
        assert [one["start"] for one in answer["sentences"]] == [start for start, _ in split_sentences(text)]
        assert all(text[one["start"] :].startswith(one["text"]) for one in answer["sentences"])
        scores = [[one["score"] for one in found["sentences"]] for found in (answer, alone)]
        assert np.allclose(*scores, atol=1e-5)


def test_the_best_come_in_the_order_of_the_text() -> None:
    model = scorer("bert")
    every = model.predict(TEXT, sentences=5)["sentences"]
    best = sorted(sorted(every, key=lambda one: -one["score"])[:2], key=lambda one: one["start"])
    answer = model.predict(TEXT, sentences=2)
    assert answer["sentences"] == best
    assert answer["text"] == "\n".join(one["text"] for one in best)
    with pytest.raises(InputError, match="sentences is 0"):
        model.with_settings(sentences=0)


def test_a_folder_opens_in_transformers_and_keeps_its_purpose(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = scorer("bert")
    ours.tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "bert", ours.model, tokenizer=tmp_path / "tokenizer")
    assert task_of(tmp_path / "bert") == "token-classification"
    write_purpose(tmp_path / "bert", Purpose(EXTRACTION, settings={"sentences": 1}))
    export_model(str(tmp_path / "bert"), "hf", tmp_path / "out")
    again = load(tmp_path / "out")
    assert (again.task, again.sentences) == (EXTRACTION, 1)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Who wrote it? It was Jane Doe."
    encoded = read(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0]
    with torch.no_grad():
        logits = theirs(**encoded).logits[0, :, 0]
    expected = [
        logits[(offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > 0)].mean().sigmoid()
        for start, stop in split_sentences(text)
    ]
    found = [one["score"] for one in again.predict(text, sentences=9)["sentences"]]
    assert found == pytest.approx([float(score) for score in expected], abs=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "summary"}
