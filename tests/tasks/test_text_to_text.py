"""Texts for texts by models that others saved: sources are framed, and answers begin, as `transformers` has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kit
from melete.api import load
from melete.data.tokenizers import Tokenizer
from melete.models.checkpoint import save_model
from task_examples import SENTENCES, tokenizer


def test_a_source_stands_between_what_its_tokenizer_puts_around_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = tokenizer("wordpiece")
    own = Tokenizer(words.definition, words.config | {"eos_token": "[SEP]", "bos_token": "[CLS]"})
    ids = {"eos_token_id": own.sep_id, "pad_token_id": own.pad_id, "decoder_start_token_id": own.sep_id}
    forced = {"forced_bos_token_id": own.cls_id, "vocab_size": own.vocab_size}
    model = kit.tiny_network("bart", "text2text-generation", **ids, **forced)
    own.save(tmp_path / "tokenizer")
    save_model(tmp_path / "bart", model, tokenizer=tmp_path / "tokenizer")
    path = tmp_path / "bart" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_beams": 3, "max_new_tokens": 9}))
    texts = [text[:40] for text in SENTENCES]
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "bart")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "bart")
    batch = read(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        written = theirs.generate(**batch)
    predictor = load(tmp_path / "bart")
    assert predictor.task == "text2text-generation"
    assert predictor.begin == [own.cls_id]
    expected = [own.decode(row.tolist()).strip() for row in written]
    assert [answer["text"] for answer in predictor.predict(texts)] == expected
