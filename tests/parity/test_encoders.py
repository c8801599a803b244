"""Encoders of the same weights in transformers, through saved folders in both directions."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Batch
from melete.models import electra_pair, family
from melete.models.checkpoint import load_encoder, save_model

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


@torch.no_grad()
def scores(model, batch: Batch) -> dict[str, torch.Tensor]:
    """Everything the heads of this model say, by its name in transformers; documents in rows of their own."""
    hidden = model.encode(batch)
    if model.task == "fill-mask":
        return {"logits": model.mlm_logits(hidden)}
    if model.family == "electra":
        return {"logits": model.rtd_logits(hidden)}
    return {
        "prediction_logits": model.mlm_logits(hidden),
        "seq_relationship_logits": model.nsp_logits(hidden, batch),
    }


@torch.no_grad()
def their_scores(model, batch: Batch, **labels: torch.Tensor) -> Any:
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    return model(
        input_ids=batch.input_ids,
        attention_mask=(batch.doc_ids > 0).long(),
        position_ids=batch.position_ids,
        **types,
        **labels,
    )


def distance(ours, theirs, batch: Batch) -> float:
    """The largest difference between the scores of both at real tokens."""
    expected, real = their_scores(theirs, batch), batch.doc_ids > 0
    worst = torch.zeros(1)  # not a number stays not a number
    for name, found in scores(ours, batch).items():
        difference = (found - expected[name]).abs()
        per_token = difference.shape[:2] == real.shape and name != "seq_relationship_logits"
        worst = torch.maximum(worst, (difference[real] if per_token else difference).max())
    return worst.item()


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
    ours, theirs = pair
    documents = kit.token_rows(9, 24, 3, 17)  # longer together than the context
    together = scores(ours, kit.packed(*documents))
    alone = [their_scores(theirs, Batch.from_rows([document])) for document in documents]
    for name, found in together.items():
        per_token = name != "seq_relationship_logits"
        expected = torch.cat([answer[name][0] if per_token else answer[name] for answer in alone])
        assert ((found[0] if per_token else found) - expected).abs().max() <= TOLERANCE


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


def sizes(name: str, draw: random.Random) -> dict[str, Any]:
    """A random legal config in their words."""
    heads = draw.choice([1, 2, 3, 4])
    context = draw.choice([8, 24, 33])
    layers = draw.randint(1, 5)
    common = {
        "vocab_size": draw.randint(11, 60),
        "hidden_size": heads * draw.choice([4, 6, 10]),
        "intermediate_size": draw.randint(3, 40),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "initializer_range": draw.choice([0.1, 0.2]),
        "pad_token_id": draw.choice([None, 0, 10]),
    }
    if name == "modernbert":
        kinds = [draw.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
        thetas = {kind: {"rope_theta": draw.choice([100.0, 1e4, 16e4])} for kind in set(kinds)}
        return common | {
            "local_attention": draw.choice([1, 2, 7, 16, 128]),
            "layer_types": draw.choice([None, kinds]),
            "rope_parameters": draw.choice([None, thetas]),
            "norm_eps": draw.choice([1e-5, 1e-3]),
            "attention_dropout": draw.choice([0.0, 0.1]),
            "embedding_dropout": draw.choice([0.0, 0.1]),
            "mlp_dropout": draw.choice([0.0, 0.1]),
            "bos_token_id": draw.choice([None, 1]),
        }
    if name == "electra":
        common["embedding_size"] = draw.choice([common["hidden_size"], draw.randint(2, 40)])
    return common | {
        "type_vocab_size": draw.choice([1, 2, 3]),
        "layer_norm_eps": draw.choice([1e-12, 1e-5, 1e-3]),
        "hidden_dropout_prob": draw.choice([0.0, 0.1, 0.3]),
        "attention_probs_dropout_prob": draw.choice([0.0, 0.2]),
    }


def check_round_trip(name: str, task: str, seed: int, tmp_path) -> None:
    """Their random model, loaded by us and saved again, says the same and comes back the same."""
    draw = random.Random(f"{name} {task} {seed}")
    kind = their_class(name, task)
    config = kind.config_class(**sizes(name, draw))
    torch.manual_seed(seed)
    theirs = kind(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms too are far from where they start
            parameter.add_(0.1 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_encoder(tmp_path / "theirs")
    assert ours.task == task
    lengths = [draw.randint(1, config.max_position_embeddings) for _ in range(3)]
    rows = kit.token_rows(*lengths, seed=seed, vocab=config.vocab_size)
    assert distance(ours, theirs, Batch.from_rows(rows)) <= TOLERANCE
    alone = [scores(ours, Batch.from_rows([row])) for row in rows]
    for key, found in scores(ours, kit.packed(*rows)).items():
        per_token = key != "seq_relationship_logits"
        expected = torch.cat([answer[key][0] if per_token else answer[key] for answer in alone])
        assert ((found[0] if per_token else found) - expected).abs().max() <= TOLERANCE
    save_model(tmp_path / "ours", ours, tokenizer=None)
    assert load_encoder(tmp_path / "ours").config == ours.config
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    kept = again.config.to_dict()
    changed = {key for key, value in theirs.config.to_dict().items() if kept.get(key) != value}
    assert changed <= {"_name_or_path", "architectures", "dtype"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "task"), WORN)
def test_their_folder_loads_and_comes_back_the_same(name: str, task: str, seed: int, tmp_path) -> None:
    check_round_trip(name, task, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 54))
@pytest.mark.parametrize(("name", "task"), WORN)
def test_more_of_their_folders_load_and_come_back_the_same(name: str, task: str, seed: int, tmp_path) -> None:
    check_round_trip(name, task, seed, tmp_path)


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
