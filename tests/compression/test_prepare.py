"""Decoders in fewer bits say the same, or are refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kit
from melete.api import load
from melete.compression import prepare
from melete.compression.narrow import NarrowDecoder
from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation.beam import beam_search
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.base import Decoder
from melete.nn.kernels import library


@pytest.fixture(scope="module", params=sorted(kit.SIZES))
def pair(request, built) -> tuple[Decoder, NarrowDecoder]:
    """A model, and the same in 8 bits by compiled code."""
    compiled = built(library)
    model = kit.tiny_network(request.param, "text-generation", seed=5)
    assert isinstance(model, Decoder)
    model.eval()
    return model, NarrowDecoder(copy.deepcopy(model), compiled, 8)


@torch.no_grad()
def test_a_narrow_model_says_nearly_the_same_and_each_row_by_itself(pair) -> None:
    model, narrow = pair
    rows = [row.tolist() for row in kit.token_rows(11, 6, 11, seed=2)]
    batch = Batch.from_rows(rows, left=True)
    expected, found = (each.logits(each.encode(batch)) for each in (model, narrow))
    real = batch.doc_ids > 0
    assert (found - expected)[real].norm() < 0.05 * expected[real].norm()
    one = Batch.from_rows(rows[2:])
    two = Batch.from_rows([rows[0], rows[2]])
    assert torch.equal(narrow.encode(one)[0], narrow.encode(two)[1]), "beside others"
    cache = narrow.new_cache(1, 11)
    steps = [
        replace(
            one,
            **{name: getattr(one, name)[:, i : i + 1] for name in ("input_ids", "doc_ids", "position_ids")},
        )
        for i in range(11)
    ]
    one_by_one = torch.cat([narrow.encode(step, cache) for step in steps], 1)
    assert torch.equal(one_by_one, narrow.encode(one)), "token by token"


def test_answers_of_a_narrow_model_do_not_depend_on_their_neighbours(pair) -> None:
    _, narrow = pair
    rows = [row.tolist() for row in kit.token_rows(4, 9, 4, seed=6)]
    settings = GenerationSettings(temperature=0, max_new_tokens=2 * kit.CONTEXT)
    together = generate(narrow, rows, settings)
    assert together == [generate(narrow, [row], settings)[0] for row in rows]
    assert len(beam_search(narrow, rows, GenerationSettings(temperature=0, num_beams=3))) == 3


def test_what_gets_worse_is_refused_with_the_figure(model_folder, monkeypatch, capsys) -> None:
    float32 = load(model_folder, task="text-generation")
    for precision in ("int8", "bfloat16"):
        loaded = load(model_folder, task="text-generation", precision=precision)
        assert loaded.perplexity("some text") == pytest.approx(float32.perplexity("some text"), rel=0.02)
        assert isinstance(loaded.generate("abc", max_new_tokens=4), str)
    assert "perplexity +0." in capsys.readouterr().err
    monkeypatch.setitem(prepare.MOST, "int8", -0.1)
    with pytest.raises(InputError, match=r"in int8 the perplexity rises by 0\.\d\d%") as refused:
        load(model_folder, task="text-generation", precision="int8")
    assert "use bfloat16" in str(refused.value)
    with pytest.raises(InputError, match="precision is 'int9'"):
        load(model_folder, task="text-generation", precision="int9")


def test_without_a_compiler_torch_multiplies(model_folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(prepare, "library", lambda folder: None)
    loaded = load(model_folder, task="text-generation", precision="int8")
    assert loaded.perplexity("some text") > 1
    assert "no C++ compiler" in capsys.readouterr().err
    with pytest.raises(InputError, match="int4 needs a C"):
        load(model_folder, task="text-generation", precision="int4")
