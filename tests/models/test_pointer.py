"""A model that copies: its mixture by the definition, its gradient, its beams, and a folder that is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kit
from exercises import END, IDS, START, learn
from melete.errors import InputError
from melete.evaluation.inspection_attention import attention_to_source
from melete.export.export import export_model
from melete.generation.beam import beam_search
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.checkpoint import load_network, save_model
from melete.nn.attention import source_mask
from melete.objectives.seq2seq import answer_loss

SOURCES, ROWS = kit.token_rows(7, 4), kit.token_rows(3, 6, seed=1)


def pointer(**fields: Any) -> Any:
    return kit.tiny_network("pointer", "text2text-generation", **fields)


def test_a_token_is_written_or_copied_from_where_the_model_looks() -> None:
    model, batch = pointer().double(), kit.answering(SOURCES, ROWS)
    hidden = model.encode(batch)
    found = model.logits(hidden).exp()
    x, gate = hidden[..., :32], hidden[..., 32].sigmoid()
    source = model.read(batch.source)
    looks = model.copy(x, source, source_mask(batch.doc_ids, source))
    written = torch.nn.functional.linear(x, model.head_weight, model.head_bias).softmax(-1)
    for i, (ids, row) in enumerate(zip(SOURCES, ROWS, strict=True)):
        for t in range(len(row)):
            expected = gate[i, t] * written[i, t]
            for place, token in enumerate(ids.tolist()):
                expected[token] += (1 - gate[i, t]) * looks[i, t, place]
            assert torch.allclose(found[i, t], expected, atol=1e-12)
            assert found[i, t].sum().item() == pytest.approx(1.0)


def test_its_gradient_is_the_slope_of_its_loss() -> None:
    model, batch = pointer().double(), kit.answering(SOURCES, ROWS)
    labels = torch.randint(0, kit.VOCAB, (2, 6), generator=torch.Generator().manual_seed(0))
    real = batch.doc_ids > 0
    labels[0, :3] = SOURCES[0][:3]  # what can be copied

    def loss() -> torch.Tensor:
        return answer_loss(model, model.encode(batch)[real], labels[real], 0.1)

    loss().backward()
    step = 1e-6
    for name in (
        "copy.query.weight",
        "copy.gate.bias",
        "token_embeddings.weight",
        "encoder.layers.0.attention.key.weight",
    ):
        weight = model.get_parameter(name)
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
        slopes = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
                slopes.append(sign * loss().item())
                weight -= sign * step * direction
        assert sum(slopes) / (2 * step) == pytest.approx((weight.grad * direction).sum().item(), rel=1e-5), (
            name
        )


def test_beams_and_greedy_copy_through_the_cache() -> None:
    model = pointer(vocab_size=16, initializer_range=0.5, **IDS)
    sources = [[*ids.remainder(13).add(3).tolist(), END] for ids in SOURCES]
    looks = attention_to_source(pointer(), kit.answering(SOURCES, ROWS))
    assert looks.shape == (3, 2, 4, 6, 7)  # of the layers that answer, without that which copies
    for beams in (1, 3):
        settings = GenerationSettings(
            temperature=0, max_new_tokens=6, num_beams=beams, early_stopping=beams == 1, length_penalty=0.0
        )
        found = beam_search(model, [[START]] * 2, settings, sources=sources)
        for source, (best,) in zip(sources, found, strict=True):
            read = torch.tensor([START, *best.tokens])
            batch = kit.answering([torch.tensor(source)], [read[:-1]])
            said = kit.logits(model, batch)[0].gather(1, read[1:, None])
            assert best.score == pytest.approx(said.sum().item(), abs=1e-4)


def test_its_folder_is_read_here_and_refused_elsewhere(tmp_path: Path) -> None:
    model = pointer()
    save_model(tmp_path / "p", model, tokenizer=None)
    again = load_network(tmp_path / "p")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(InputError, match="transformers has no model like pointer"):
        export_model(str(tmp_path / "p"), "hf", tmp_path / "out")
    transformers = pytest.importorskip("transformers")
    with pytest.raises((ValueError, KeyError), match="pointer"):
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "p")


@pytest.mark.slow
def test_it_copies_what_it_never_wrote(tmp_path: Path) -> None:
    model, _ = learn(tmp_path, "pointer", "copy", 6, 400, 3e-3)
    source = [14, 15, 13, END]  # no word of the training has them
    settings = GenerationSettings(temperature=0, max_new_tokens=8, eos_ids=(END,))
    assert set(generate(model, [[START]], settings, sources=[source])[0]) & {13, 14, 15}
