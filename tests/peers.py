"""What a model says and what its namesake in transformers says of the same batch."""

from __future__ import annotations

from typing import Any

import torch

import kit
from melete.data.batch import Batch
from melete.models.base import Network

# Heads that are not for labelled text, and the automatic class that opens a folder with each.
OPENERS = {
    "fill-mask": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "text-generation": "AutoModelForCausalLM",
}
PER_DOCUMENT = "seq_relationship_logits"  # the others say something of each token


@torch.no_grad()
def scores(model: Network, batch: Batch) -> dict[str, torch.Tensor]:
    """Everything the heads of `OPENERS` say, by its name in transformers."""
    untyped: Any = model
    if model.task == "text-generation":
        return {"logits": kit.logits(untyped, batch)}
    hidden = untyped.encode(batch)
    if model.task == "fill-mask":
        return {"logits": untyped.mlm_logits(hidden)}
    if model.family == "electra":
        return {"logits": untyped.rtd_logits(hidden)}
    return {
        "prediction_logits": untyped.mlm_logits(hidden),
        PER_DOCUMENT: untyped.nsp_logits(hidden, batch),
    }


@torch.no_grad()
def their_scores(model: Any, batch: Batch, **labels: torch.Tensor) -> Any:
    """What a model of theirs answers, one document a row."""
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    return model(
        input_ids=batch.input_ids,
        attention_mask=(batch.doc_ids > 0).long(),
        position_ids=batch.position_ids,
        **types,
        **labels,
    )


def distance(ours: Network, theirs: Any, batch: Batch) -> float:
    """The largest difference between the scores of both at real tokens, one document a row."""
    expected, real = their_scores(theirs, batch), batch.doc_ids > 0
    worst = torch.zeros(1)  # not a number stays not a number
    for name, found in scores(ours, batch).items():
        difference = (found - expected[name]).abs()
        worst = torch.maximum(worst, (difference if name == PER_DOCUMENT else difference[real]).max())
    return worst.item()


def packed_distance(ours: Network, theirs: Any, documents: list[torch.Tensor]) -> float:
    """The largest difference between our scores of documents side by side and theirs of each alone."""
    alone = [their_scores(theirs, Batch.from_rows([document])) for document in documents]
    worst = torch.zeros(1)
    for name, found in scores(ours, kit.packed(*documents)).items():
        whole = name == PER_DOCUMENT
        expected = torch.cat([answer[name] if whole else answer[name][0] for answer in alone])
        worst = torch.maximum(worst, ((found if whole else found[0]) - expected).abs().max())
    return worst.item()
