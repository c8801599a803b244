"""Tasks whose answers are written: a tiny model learns to translate, goes on bit for bit, and opens elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_rig import DICTIONARY, finetune_config, stopped_at, trained, write_rows
from melete.api import load
from melete.data.readers import Row
from melete.errors import InputError
from melete.training import run as runs
from rig import events

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
LAYERS = {"num_hidden_layers": 1, "num_decoder_layers": 1}


def writing_config(folder: Path, task: str = "translation", family: str = "marian", **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "model__config": SIZES | (LAYERS if family == "marian" else {"num_hidden_layers": 2}),
        "tokenizer__vocab_size": 300,
        "tokenizer__kind": "byte-bpe",
        "training__batch_tokens": 200,
        "optimizer__learning_rate": 1e-2,
        "finetuning__epochs": 18.0,
        "finetuning__batch_size": 32,
        "data__valid": [str(write_rows(folder / "valid", task, 40))],  # words that it has read
        "finetuning__dropout": 0.0,
        "decoding__beams": 3,
    }
    if family != "marian":
        fields["model__config"].pop("intermediate_size")
    return finetune_config(folder, task, family, **fields | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for translation."""
    folder = tmp_path_factory.mktemp("run")
    config = writing_config(folder, evaluation__baseline=True, finetuning__label_smoothing=0.1)
    return trained(config)[0]


def test_a_tiny_model_learns_to_translate(run: Path) -> None:
    (result,) = events(run, "result")
    model, copy = result["table"]
    assert model["chrf"] > 90
    assert copy["name"] == "copy of the source"
    assert model["chrf"] > copy["chrf"]
    assert result["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert len(result["typical"]) == 5
    steps = events(run, "step")
    assert 0 <= sum(event["padding"] for event in steps) / len(steps) < 0.15


def test_a_decoder_learns_it_too_and_stands_beside_another_model(run: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"evaluation__beside": [str(run)], "finetuning__epochs": 25.0}
    config = writing_config(tmp_path, "translation", "gpt2", **changes)
    _, figures = trained(config)
    own, other = figures["table"]
    assert own["chrf"] > 90
    assert (other["name"], other["chrf"] > 90) == (str(run), True)
    assert "difference" in other


def test_the_folder_writes_the_same_in_transformers(run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    final = run / "final"
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(final)
    tokenizer = transformers.AutoTokenizer.from_pretrained(final)
    predictor = load(final)
    assert predictor.task == "translation"
    assert (predictor.beams, predictor.long) == (3, "stop")
    texts = ["red dog", "house", "tree blue", "tree tree red dog"]
    read = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        written = theirs.generate(**read)
    expected = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    assert [answer["text"] for answer in predictor.predict(texts)] == expected


def test_answers_keep_their_order_and_do_not_depend_on_the_batch(run: Path) -> None:
    predictor = load(run)
    texts = [" ".join([word] * count) for word in DICTIONARY for count in (1, 2, 5)]
    alone = [predictor.predict(text) for text in texts]
    rows = (Row({"text": text}, "texts", line) for line, text in enumerate(["", *texts], 1))
    together = list(predictor.stream(rows, budget=30))
    assert together[0]["text"] == ""
    assert [one["text"] for one in together[1:]] == [one["text"] for one in alone]
    best = predictor.predict("red dog", n_best=3)
    assert [one["score"] for one in best["others"]] == sorted(
        (o["score"] for o in best["others"]), reverse=True
    )
    assert best["score"] >= best["others"][0]["score"]


def test_a_text_that_is_too_long_is_refused_cut_or_split(run: Path) -> None:
    predictor = load(run)
    long = "red dog.\n" * 30
    with pytest.raises(InputError, match=r"input:1: a text of .* tokens, and the model reads 31"):
        predictor.predict(long)
    cut, split = (predictor.predict(long, long=how)["text"] for how in ("cut", "split"))
    assert len(split) > len(cut) > 0
    endless = "red dog " * 30  # no sentence ends
    pieces = predictor.with_settings(long="split").cut(Row({"text": endless}, "input", 1))
    assert all(len(piece.ids) <= 32 and piece.ids[-1] == predictor.end for piece in pieces)
    assert predictor.tokenizer.decode([id_ for piece in pieces for id_ in piece.ids[:-1]]) == endless.strip()


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "finetuning__bpe_dropout": 0.2,
        "finetuning__r_drop": 0.5,
        "finetuning__layer_decay": 0.8,
        "finetuning__dropout": 0.1,
        "finetuning__metric": "chrf",
        "finetuning__epochs": 2.0,
        "training__save_every": 4,
        "training__keep": 99,
        "training__average_last": 2,
    }
    folder, figures = trained(writing_config(tmp_path, **changes))
    copy = stopped_at(folder, 8, tmp_path / "copy")
    again = runs.resume(copy)
    assert runs.score(again).figures == figures
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (copy / "final" / name).read_bytes() == (folder / "final" / name).read_bytes()


def test_what_a_folder_is_for_stands_where_others_look(run: Path) -> None:
    config = json.loads((run / "final" / "config.json").read_text())
    generation = json.loads((run / "final" / "generation_config.json").read_text())
    assert config["task_specific_params"] == {"translation": {}}
    assert generation["num_beams"] == 3
    assert config["eos_token_id"] == generation["eos_token_id"]
    assert "pipeline_tag: translation" in (run / "final" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetuning__batch_size": 8}, "finetuning.batch_size: steps are of so many tokens"),
        ({"finetuning__adversarial": 0.1}, "translation has no use for it"),
        (
            {"finetuning__bpe_dropout": 0.1, "tokenizer__kind": "unigram", "tokenizer__vocab_size": 40},
            "BPE-dropout leaves",
        ),
        ({"tokenizer__kind": "wordpiece"}, "no token that ends a text"),
        ({"finetuning__metric": "accuracy"}, "no figure 'accuracy'; expected one of bleu, chrf, ter"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        runs.start(writing_config(tmp_path, **changes))
    assert not (tmp_path / "run").exists()
