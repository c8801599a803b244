"""Figures of classes equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from melete.metrics.classification import (
    accuracy,
    calibration,
    class_scores,
    confusion,
    matthews,
    roc_auc,
)

RNG = np.random.default_rng(0)


def single(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    truth = RNG.integers(0, classes, count)
    return truth, np.where(RNG.random(count) < 0.6, truth, RNG.integers(0, classes, count))


@pytest.mark.parametrize(("count", "classes"), [(400, 2), (400, 7), (30, 12), (3, 3), (1, 2)])
def test_single_label_figures(count, classes):
    truth, predicted = single(count, classes)
    scores = class_scores(truth, predicted, classes)
    labels = list(range(classes))
    expected = reference.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    for ours, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs)
    for kind in ("micro", "macro", "weighted"):
        expected = reference.precision_recall_fscore_support(truth, predicted, average=kind, zero_division=0)
        assert scores.mean(kind) == pytest.approx(expected[:3])
    assert accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))
    table = confusion(truth, predicted, classes)
    np.testing.assert_array_equal(table, reference.confusion_matrix(truth, predicted, labels=labels))
    if count > 1:
        assert matthews(table) == pytest.approx(reference.matthews_corrcoef(truth, predicted))


def test_multi_label_figures():
    truth, predicted = RNG.random((200, 6)) < 0.3, RNG.random((200, 6)) < 0.3
    predicted[:, 3] = False
    scores = class_scores(truth, predicted, 6)
    for kind in ("micro", "macro", "weighted"):
        expected = reference.precision_recall_fscore_support(truth, predicted, average=kind, zero_division=0)
        assert scores.mean(kind) == pytest.approx(expected[:3])
    assert accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))


def test_one_class_only_correlates_with_nothing():
    assert matthews(confusion(np.array([0, 1, 1]), np.array([1, 1, 1]), 2)) == 0.0


@pytest.mark.parametrize("digits", [1, 8])
def test_area_under_the_curve(digits):
    truth, scores = RNG.random(300) < 0.2, RNG.random(300).round(digits)
    assert roc_auc(scores, truth) == pytest.approx(reference.roc_auc_score(truth, scores))
    assert np.isnan(roc_auc(scores, np.ones(300, bool)))


def test_calibration():
    confidence = np.array([0.95, 0.85, 0.9, 0.55, 1.0, 0.0])
    right = np.array([True, True, False, False, True, False])
    found = calibration(confidence, right)
    np.testing.assert_array_equal(found.counts, [1, 1, 2, 2])
    np.testing.assert_allclose(found.confidence, [0.0, 0.55, 0.875, 0.975])
    np.testing.assert_allclose(found.accuracy, [0.0, 0.0, 0.5, 1.0])
    assert found.error == pytest.approx((0.55 + 2 * 0.375 + 2 * 0.025) / 6)
    sure = RNG.random(50_000)
    assert calibration(sure, RNG.random(50_000) < sure).error < 0.01
    assert calibration(sure**0.5, RNG.random(50_000) < sure).error > 0.1
