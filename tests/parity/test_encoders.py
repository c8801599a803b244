"""Encoders of the same weights in transformers, through saved folders in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Batch
from melete.models import electra_pair, family
from melete.models.checkpoint import load_encoder, save_model
from peers import distance, packed_distance, scores, their_scores

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Seen: 0 for BERT and ELECTRA, up to 3e-6 for ModernBERT, with logits of standard deviation 1 to 2.
TOLERANCE = 1e-5
WORN = [
    (name, task)
    for name in sorted(kit.ENCODER_SIZES)
    for task in ("fill-mask", "pretraining")
    if task in family(name).HEADS
]


def their_class(name: str, task: str) -> Any:
    return getattr(transformers, family(name).HEADS[task].architecture)


@pytest.fixture(scope="module", params=WORN, ids=lambda worn: "-".join(worn))
def pair(request, tmp_path_factory):
    """Ours, saved, and opened by the class config.json names."""
    folder = tmp_path_factory.mktemp(request.param[0])
    ours = kit.tiny_encoder(request.param[0], task=request.param[1])
    save_model(folder, ours, tokenizer=None)
    theirs, report = their_class(*request.param).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return ours, theirs.eval()


def typed(batch: Batch) -> Batch:
    """The second half of each row is the second text of a pair."""
    types = (torch.arange(batch.input_ids.shape[1]) > 4).long().expand_as(batch.input_ids)
    return Batch(batch.input_ids, batch.doc_ids, batch.position_ids, batch.doc_starts, {}, types)


@pytest.mark.parametrize("lengths", [(21, 21), (29, 5, 1)], ids=["plain", "padded"])
def test_scores_are_equal(pair, lengths) -> None:
    ours, theirs = pair
    batch = Batch.from_rows(kit.token_rows(*lengths))
    assert distance(ours, theirs, batch) <= TOLERANCE
    if ours.family != "modernbert":
        assert distance(ours, theirs, typed(batch)) <= TOLERANCE


def test_packed_documents_are_what_each_is_alone(pair) -> None:
    documents = kit.token_rows(9, 24, 3, 17)  # longer together than the context
    assert packed_distance(*pair, documents) <= TOLERANCE


def test_losses_are_equal(pair) -> None:
    ours, theirs = pair
    batch = Batch.from_rows(kit.token_rows(20, 13))
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.rand(batch.input_ids.shape, generator=generator) < 0.3) & (batch.doc_ids > 0)
    found = scores(ours, batch)
    if ours.task == "pretraining" and ours.family == "electra":
        real = batch.doc_ids > 0
        loss = F.binary_cross_entropy_with_logits(found["logits"][real], chosen[real].float())
        labels = {"labels": chosen.long()}
    else:
        targets = batch.input_ids.masked_fill(~chosen, -100)
        hidden = ours.encode(batch)[chosen]  # only where a token is hidden
        logits = F.linear(ours.mlm_hidden(hidden), ours.mlm_weight, ours.mlm_bias)
        loss, labels = F.cross_entropy(logits, targets[chosen]), {"labels": targets}
        if ours.task == "pretraining":
            labels["next_sentence_label"] = torch.tensor([1, 0])
            loss = loss + F.cross_entropy(found["seq_relationship_logits"], labels["next_sentence_label"])
    assert loss.item() == pytest.approx(their_scores(theirs, batch, **labels).loss.item(), abs=1e-5)


@pytest.mark.parametrize("name", sorted(kit.ENCODER_SIZES))
def test_the_bare_model_opens_every_folder(name: str, tmp_path) -> None:
    ours = kit.tiny_encoder(name)
    save_model(tmp_path, ours, tokenizer=None)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    batch = Batch.from_rows(kit.token_rows(21, 8))
    with torch.no_grad():
        difference = ours.encode(batch) - their_scores(theirs, batch).last_hidden_state
    assert difference[batch.doc_ids > 0].abs().max() <= TOLERANCE


def test_an_electra_pair_is_two_folders_of_theirs(tmp_path) -> None:
    discriminator = kit.tiny_encoder("electra", hidden_size=128, num_attention_heads=2)
    generator = electra_pair.build_generator(discriminator, seed=3).eval()
    assert generator.config.hidden_size == 32
    electra_pair.save_pair(tmp_path, discriminator, generator, tokenizer=None)
    batch = typed(Batch.from_rows(kit.token_rows(20, 11)))
    for ours, folder, kind in (
        (discriminator, tmp_path, transformers.ElectraForPreTraining),
        (generator, tmp_path / "generator", transformers.ElectraForMaskedLM),
    ):
        theirs, report = kind.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        assert distance(ours, theirs.eval(), batch) <= TOLERANCE


def test_a_resized_context_is_a_valid_folder_for_them(tmp_path) -> None:
    batch = Batch.from_rows(kit.token_rows(2 * kit.CONTEXT))
    for name in kit.ENCODER_SIZES:
        save_model(tmp_path / name, kit.tiny_encoder(name, task="fill-mask"), tokenizer=None)
        longer = load_encoder(tmp_path / name, max_position_embeddings=2 * kit.CONTEXT)
        save_model(tmp_path / f"long-{name}", longer, tokenizer=None)
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / f"long-{name}").eval()
        assert distance(longer, theirs, batch) <= TOLERANCE
