"""The heads of tasks beside those of transformers, through saved folders in both directions."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Batch
from melete.models import family
from melete.models.base import Decoder, Network
from melete.models.checkpoint import load_network, save_model

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Seen: up to 4e-6 with logits of standard deviation 1 to 3.
TOLERANCE = 1e-5
PAD = 5
OPENERS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
WORN = [(name, task) for name in kit.LABELLED for task in OPENERS]
LABELS = ("no", "yes", "maybe")


def scores(model: Network, batch: Batch) -> torch.Tensor:
    """What the head says: (documents, labels), or (B, T, labels or 2)."""
    with torch.no_grad():
        hidden = model.encode(batch)
        if model.task == "text-classification":
            return model.class_logits(hidden, batch)
        return model.tag_logits(hidden) if model.task == "token-classification" else model.span_logits(hidden)


def their_scores(model: Any, batch: Batch) -> torch.Tensor:
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    with torch.no_grad():
        answer = model(
            input_ids=batch.input_ids,
            attention_mask=(batch.doc_ids > 0).long(),
            position_ids=batch.position_ids,
            **types,
        )
    if "start_logits" in answer:
        return torch.stack([answer.start_logits, answer.end_logits], dim=-1)
    return answer.logits


def distance(ours: Network, theirs: Any, batch: Batch) -> float:
    difference = (scores(ours, batch) - their_scores(theirs, batch)).abs()
    if ours.task != "text-classification":
        difference = difference[batch.doc_ids > 0]
    return difference.max().item()


def rows(*lengths: int, seed: int = 0, vocab: int = kit.VOCAB) -> list[torch.Tensor]:
    """Token ids in which padding's stands now and then, as the end of a text does for many decoders."""
    found = kit.token_rows(*lengths, seed=seed, vocab=vocab)
    for i, row in enumerate(found):
        if i % 2 == 0 and len(row) > 2:
            row[-1] = row[1] = PAD
    return found


@pytest.fixture(scope="module", params=WORN, ids=lambda worn: "-".join(worn))
def pair(request, tmp_path_factory):
    """Ours, saved, and opened by the automatic class of its task."""
    name, task = request.param
    folder = tmp_path_factory.mktemp(name)
    labels = {} if task == "question-answering" else {"id2label": LABELS}
    ours = kit.tiny_network(name, task, pad_token_id=PAD, classifier_dropout=0.3, **labels)
    save_model(folder, ours, tokenizer=None)
    theirs, report = getattr(transformers, OPENERS[task]).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(theirs).__name__ == family(name).HEADS[task].architecture
    return ours, theirs.eval()


@pytest.mark.parametrize("lengths", [(21, 21), (29, 5, 1)], ids=["plain", "padded"])
def test_scores_are_equal(pair, lengths) -> None:
    ours, theirs = pair
    batch = Batch.from_rows(rows(*lengths), pad_id=PAD)
    assert distance(ours, theirs, batch) <= TOLERANCE
    if ours.family in ("bert", "electra"):
        types = (torch.arange(batch.input_ids.shape[1]) > 4).long().expand_as(batch.input_ids)
        assert distance(ours, theirs, replace(batch, token_type_ids=types)) <= TOLERANCE


def test_packed_documents_are_what_each_is_alone(pair) -> None:
    ours, theirs = pair
    documents = rows(9, 12, 3, 7)
    together = scores(ours, kit.packed(*documents))
    alone = [their_scores(theirs, Batch.from_rows([document])) for document in documents]
    if ours.task == "text-classification":
        expected = torch.cat(alone)
    else:
        together, expected = together[0], torch.cat([answer[0] for answer in alone])
    assert (together - expected).abs().max() <= TOLERANCE


def test_labels_travel_along(pair) -> None:
    ours, theirs = pair
    if ours.task != "question-answering":
        assert theirs.config.id2label == dict(enumerate(LABELS))
        assert theirs.config.label2id == {name: i for i, name in enumerate(LABELS)}
    assert theirs.config.num_labels == len(ours.config.labels)
    if isinstance(ours, Decoder) and ours.task == "text-classification":
        return  # their head of a decoder drops nothing
    if ours.task != "question-answering":
        assert any(m.p == 0.3 for m in theirs.modules() if isinstance(m, torch.nn.Dropout))


@pytest.mark.parametrize("name", kit.LABELLED)
def test_the_kind_of_problem_gives_the_same_loss(name: str, tmp_path) -> None:
    batch = Batch.from_rows(rows(14, 9, 11), pad_id=PAD)
    problems: list[tuple[str, int, torch.Tensor, Any]] = [
        ("single_label_classification", 3, torch.tensor([2, 0, 1]), F.cross_entropy),
        ("multi_label_classification", 3, torch.eye(3), F.binary_cross_entropy_with_logits),
        ("regression", 1, torch.tensor([0.5, 2.0, -1.0]), lambda x, y: F.mse_loss(x[:, 0], y)),
    ]
    for problem, count, labels, loss in problems:
        ours = kit.tiny_network(
            name,
            "text-classification",
            pad_token_id=PAD,
            problem_type=problem,
            id2label=[f"label {i}" for i in range(count)],
        )
        save_model(tmp_path / problem, ours, tokenizer=None)
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / problem).eval()
        assert theirs.config.problem_type == problem
        with torch.no_grad():
            mask = (batch.doc_ids > 0).long()
            expected = theirs(batch.input_ids, attention_mask=mask, labels=labels).loss
        assert loss(scores(ours, batch), labels).item() == pytest.approx(expected.item(), abs=1e-5)
        assert load_network(tmp_path / problem).config == ours.config


def their_config(name: str, draw: random.Random) -> Any:
    heads, layers = draw.choice([2, 4]), draw.randint(1, 3)
    width = heads * draw.choice([4, 6])
    inner, labels = draw.randint(5, 30), draw.choice([1, 2, 5])
    common = {
        "vocab_size": 50,
        "initializer_range": 0.15,
        "pad_token_id": PAD,
        "num_labels": labels,
        "tie_word_embeddings": True,
    }
    problem = draw.choice([None, "regression", "multi_label_classification"])
    if problem is not None:
        common["problem_type"] = problem
    if name == "gpt2":
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_inner": inner, "n_positions": 24}
        return transformers.GPT2Config(**common, **sizes, bos_token_id=0, eos_token_id=0)
    common |= {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 24,
    }
    if name == "qwen3":
        common["tie_word_embeddings"] = draw.choice([True, False])
        return transformers.Qwen3Config(**common, num_key_value_heads=heads // 2, head_dim=6)
    if name == "modernbert":
        pooling = draw.choice(["cls", "mean"])
        ids = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        return transformers.ModernBertConfig(**common, **ids, local_attention=8, classifier_pooling=pooling)
    drop = {"classifier_dropout": draw.choice([None, 0.2]), "hidden_dropout_prob": 0.3}
    kind = transformers.BertConfig if name == "bert" else transformers.ElectraConfig
    return kind(**common, **drop)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "task"), WORN)
def test_their_folder_loads_and_comes_back_the_same(
    name: str, task: str, seed: int, tmp_path, capsys
) -> None:
    config = their_config(name, random.Random(f"{name} {task} {seed}"))
    if task == "question-answering":
        config.num_labels = 2
    torch.manual_seed(seed)
    theirs = getattr(transformers, family(name).HEADS[task].architecture)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms too are far from where they start
            parameter.add_(0.1 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_network(tmp_path / "theirs")
    assert (ours.task, len(ours.config.labels)) == (task, config.num_labels)
    assert capsys.readouterr().err == ""
    batch = Batch.from_rows(rows(23, 4, 11, vocab=50), pad_id=PAD)
    assert distance(ours, theirs, batch) <= TOLERANCE
    save_model(tmp_path / "ours", ours, tokenizer=None)
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    kept = again.config.to_dict()
    changed = {key for key, value in theirs.config.to_dict().items() if kept.get(key) != value}
    assert changed <= {"_name_or_path", "architectures", "dtype", "sliding_window"}
