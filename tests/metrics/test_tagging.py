"""Entities are those that `conlleval` finds, and their F1 is seqeval's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score
from seqeval.metrics.sequence_labeling import get_entities

from melete.metrics.tagging import (
    broken,
    entities,
    entity_counts,
    entity_scores,
    f1_of_counts,
    marks_entities,
)

TAGS = ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "creative-work"))]
SENTENCE = st.lists(st.sampled_from(TAGS), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(SENTENCE)
def test_any_tags_hold_the_entities_that_seqeval_sees(tags):
    assert entities(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("I-PER I-PER O I-PER B-PER", [("PER", 0, 2), ("PER", 3, 4), ("PER", 4, 5)]),  # IOB1
        ("B-ORG M-ORG E-ORG S-LOC O", [("ORG", 0, 3), ("LOC", 3, 4)]),  # BMES
        ("B-ORG I-ORG L-ORG U-LOC U-LOC", [("ORG", 0, 3), ("LOC", 3, 4), ("LOC", 4, 5)]),  # BILOU
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("B I O B", [("", 0, 2), ("", 3, 4)]),
        ("B-PER.NAM I-PER.NAM", [("PER.NAM", 0, 2)]),
    ],
)
def test_schemes(tags, found):
    assert entities(tags.split()) == found


def test_f1_is_that_of_seqeval():
    rng = np.random.default_rng(0)
    truth = [list(rng.choice(TAGS, 15)) for _ in range(60)]
    predicted = [[tag if rng.random() < 0.8 else str(rng.choice(TAGS)) for tag in tags] for tags in truth]
    types, scores = entity_scores(truth, predicted)
    report = classification_report(truth, predicted, output_dict=True)
    for kind in ("micro", "macro", "weighted"):
        row = report[f"{kind} avg"]
        assert scores.mean(kind) == pytest.approx((row["precision"], row["recall"], row["f1-score"]))
    assert types == ("PER", "creative-work")
    np.testing.assert_allclose(scores.f1, [report[kind]["f1-score"] for kind in types])
    assert f1_of_counts(entity_counts(truth, predicted)) == pytest.approx(f1_score(truth, predicted))


def test_which_tags_mark_entities():
    assert marks_entities(["O", "B-PER", "I-PER"])
    assert marks_entities(["S-LOC", "M-ORG", "O", "B", "I"])
    assert not marks_entities(["NOUN", "VERB", "B-PER"])
    assert not marks_entities(["O"])


def test_tags_that_continue_nothing():
    assert broken(["B-A", "I-A", "O", "I-A", "B-A", "I-B", "S-A", "E-A"]) == [3, 5, 7]
    assert broken(["B-A", "M-A", "E-A", "B-A", "E-A", "O", "S-A"]) == []
