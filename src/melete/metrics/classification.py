"""How well things are told apart: by the classes they were given, and by the scores behind that. Pure functions.

Classes are numbers, int (N,), for one class an item; or bool (N, C) where an item may be of several (multi-label).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from melete.metrics.regression import ranks


@dataclass(frozen=True)
class ClassScores:
    """How well each class is found, (C,) each; a share of nothing is 0.

    Attributes:
        precision: of what was given the class, how much is of it.
        recall: of what is of the class, how much was given it.
        f1: harmonic mean of both.
        support: items of the class.
        predicted: items that were given it.
        hits: items of both.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray

    def mean(self, kind: str) -> tuple[float, float, float]:
        """Precision, recall and F1 of all classes.

        Args:
            kind: "micro" counts every item alike, "macro" every class that occurs, "weighted" every class by its
                support.
        """
        if kind == "micro":
            whole = from_counts(*(counts.sum(keepdims=True) for counts in self._counts()))
            return float(whole.precision[0]), float(whole.recall[0]), float(whole.f1[0])
        occurs = self.support + self.predicted > 0
        weights = {"macro": occurs.astype(float), "weighted": self.support.astype(float)}[kind]
        total = weights.sum() or 1.0
        precision, recall, f1 = (
            (each * weights).sum() / total for each in (self.precision, self.recall, self.f1)
        )
        return float(precision), float(recall), float(f1)

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.hits, self.support, self.predicted


def from_counts(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> ClassScores:
    """Scores from how many items were found, are there, and were said to be there, (C,) each."""
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return ClassScores(precision, recall, f1, support, predicted, hits)


def class_scores(truth: np.ndarray, predicted: np.ndarray, classes: int) -> ClassScores:
    """How well each class is found.

    Args:
        truth, predicted: int (N,), or bool (N, C).
        classes: how many there are.
    """
    if truth.ndim == 2:
        return from_counts((truth & predicted).sum(0), truth.sum(0), predicted.sum(0))
    table = confusion(truth, predicted, classes)
    return from_counts(np.diagonal(table), table.sum(1), table.sum(0))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many items of each class (row) were given each class (column): int64 (C, C)."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the items whose class, or whole set of classes, is right."""
    right = truth == predicted
    return float((right if right.ndim == 1 else right.all(1)).mean())


def matthews(table: np.ndarray) -> float:
    """Matthews' correlation coefficient of a confusion matrix (Gorodkin 2004); 0 where one side has one class only."""
    total, right = float(table.sum()), float(np.trace(table))
    truth, predicted = table.sum(1).astype(float), table.sum(0).astype(float)
    spread = (total**2 - (truth**2).sum()) * (total**2 - (predicted**2).sum())
    return float((right * total - truth @ predicted) / math.sqrt(spread)) if spread else 0.0


@dataclass(frozen=True)
class Calibration:
    """Whether a model is right as often as it says.

    Attributes:
        error: expected calibration error: the mean gap between confidence and accuracy, by items.
        confidence, accuracy: means of each bin that holds items, (K,).
        counts: items of each of these bins, (K,).
    """

    error: float
    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> Calibration:
    """Confidence beside accuracy in bins of equal width (Guo et al. 2017, section 2).

    Args:
        confidence: probability that the model gave what it said, float (N,).
        right: whether that was so, bool (N,).
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = counts > 0
    mean = np.bincount(place, confidence, bins)[some] / counts[some]
    share = np.bincount(place, right, bins)[some] / counts[some]
    error = float((np.abs(mean - share) * counts[some]).sum() / max(len(confidence), 1))
    return Calibration(error, mean, share, counts[some])


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive scores above a negative, ties counting half: the area under the ROC curve.

    By ranks (Mann and Whitney 1947). NaN where there are no positives, or no negatives.

    Args:
        scores: float (N,), none of them NaN.
        positive: bool (N,).
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return math.nan
    total = float(ranks(scores)[positive].sum())
    return (total - positives * (positives + 1) / 2) / (positives * negatives)
