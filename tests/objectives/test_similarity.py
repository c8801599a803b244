"""Vectors of pairs: the losses against their definitions, and the folder that others open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Batch, Example
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.labelled import Craft, LabelledPiece
from melete.objectives.similarity import ALIKE, Pair, Similarity
from melete.tasks import FEATURES, task_of
from melete.tasks.feature_extraction import FeatureExtraction, vectors
from task_examples import SENTENCES, tokenizer

LABELS = [1.0, 0.2, 0.9, 0.0]


def objective(family: str = "bert", **settings: Any) -> Similarity:
    return Similarity(kit.tiny_network(family, FEATURES), Craft(), pad_id=0, **settings).eval()


def examples() -> list[Example]:
    rows = kit.token_rows(9, 5, 12, 3, 7, 4, 2, 11)
    pieces = [LabelledPiece(row.numpy(), None, LABELS[i // 2]) for i, row in enumerate(rows)]
    return [Example((0, 0, i), Pair(pieces[2 * i], pieces[2 * i + 1])) for i in range(4)]


def each(task: Similarity) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of both sides, each text by itself."""
    sides = zip(*((e.data.first.ids, e.data.second.ids) for e in examples()), strict=True)
    found = [
        torch.cat([vectors(task.model, Batch.from_rows([ids]), task.pooling) for ids in side])
        for side in sides
    ]
    return found[0], found[1]


@pytest.mark.parametrize("pooling", ["", "first", "last"])
@pytest.mark.parametrize("family", kit.LABELLED)
def test_the_cosine_is_drawn_to_the_score(family: str, pooling: str) -> None:
    task = objective(family, pooling=pooling)
    with torch.no_grad():
        batch = task.prepare(examples(), rng_for)
        first, second = each(task)
        assert torch.allclose(first.norm(dim=1), torch.ones(4))
        expected = F.mse_loss((first * second).sum(1), torch.tensor(LABELS), reduction="sum")
        assert task(batch, Context())["similarity"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert task.counts(batch)["similarity"] == 4


def test_contrast_is_among_all_second_texts_of_a_step() -> None:
    task = objective(kind="contrastive", temperature=0.1)
    assert task.micro_batch_fixed
    with torch.no_grad():
        batch = task.prepare(examples(), rng_for)
        first, second = each(task)
        expected = 0.0
        for i, label in enumerate(LABELS):
            if label >= ALIKE:
                cosines = (first[i] @ second.T) / 0.1
                expected -= cosines.log_softmax(0)[i].item()
        assert task(batch, Context())["similarity"].item() == pytest.approx(expected, rel=1e-4)
    assert task.counts(batch)["similarity"] == 2


def test_a_saved_folder_makes_the_same_vectors_and_says_how(tmp_path: Path) -> None:
    own = tokenizer("wordpiece")
    own.save(tmp_path / "tokenizer")
    model = kit.tiny_network("bert", FEATURES, vocab_size=own.vocab_size)
    task = Similarity(model, Craft(), pad_id=0, pooling="first")
    masters = {name: p.detach() for name, p in task.named_parameters()}
    task.save(tmp_path / "model", masters, tmp_path / "tokenizer")
    again = task.load(tmp_path / "model")
    assert all(torch.equal(again[name], masters[name]) for name in masters)
    assert task_of(tmp_path / "model") == FEATURES
    loaded = FeatureExtraction.load(tmp_path / "model")
    assert loaded.pooling == "first"
    expected = FeatureExtraction(model, own, tmp_path, pooling="first").embed(SENTENCES)
    assert abs(loaded.embed(SENTENCES) - expected).max() < 1e-6
    assert abs(loaded.with_settings(pooling="mean").embed(SENTENCES) - expected).max() > 1e-2
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    pair = loaded.predict({"text": SENTENCES[0], "text_pair": SENTENCES[1]})
    assert pair["score"] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)


def test_an_unknown_way_of_pooling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pooling is 'max'; expected one of mean, first, last"):
        FeatureExtraction(kit.tiny_network("bert", FEATURES), tokenizer("wordpiece"), tmp_path, pooling="max")
    folder = tmp_path / "1_Pooling"
    folder.mkdir()
    (folder / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    from melete.tasks.feature_extraction import _pooling

    with pytest.raises(InputError, match="pools by pooling_mode_max_tokens"):
        _pooling(tmp_path)
