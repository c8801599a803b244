"""Labels of texts from the words and letters in them, by weights that add up: TF-IDF and a linear classifier."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from melete.baselines.labelled import Answer, LabelledBaseline
from melete.baselines.similarity import Weights, overlap, words_and_letters
from melete.console import Progress
from melete.data.labelled.rows import TextRow
from melete.data.labelled.splits import hold_out
from melete.data.scripts import CJK
from melete.errors import InputError

_COSTS = (0.1, 0.3, 1.0, 3.0)  # of an error on a training row, against large weights
_CHOICE = 20_000  # rows that the choice is made on
_SHARPNESS = np.geomspace(0.3, 30, 30)
_LETTER = re.compile(rf"(?P<cjk>[{CJK}])|[^\W\d_]")


class Majority(LabelledBaseline[TextRow]):
    """Says what most training rows say; of several labels each that more than half of them have."""

    name: ClassVar[str] = "majority"

    def __init__(self, multi_label: bool = False) -> None:
        self.multi_label = multi_label
        self.shares: dict[str, float] = {}

    def fit(self, rows: Sequence[TextRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        counts = Counter(name for row in rows for name in row.classes)
        self.shares = {name: count / len(rows) for name, count in sorted(counts.items())}
        return self

    def predict(self, rows: Sequence[TextRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        return answers([self.shares] * len(rows), self.multi_label)


class LinearTexts(LabelledBaseline[TextRow]):
    """TF-IDF and a linear support vector machine for each label: over words and their pairs, over runs of letters, or
    the mean of both; over runs of characters in Chinese.

    Which of these, how much an error costs, and how sure a margin is, are chosen on a tenth of the training rows.
    """

    name: ClassVar[str] = "TF-IDF + linear SVM"

    def __init__(self, multi_label: bool = False) -> None:
        self.multi_label = multi_label
        self.labels: tuple[str, ...] = ()
        self.parts: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self.sharpness = 1.0

    def fit(self, rows: Sequence[TextRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        self.labels = tuple(sorted({name for row in rows for name in row.classes}))
        views = _views(rows)
        sample = rows[:: -(-len(rows) // _CHOICE)]
        learn, check = hold_out(sample, 0.1, seed=0) if len(sample) > 20 else (sample, sample)
        with Progress("linear baseline", "models", len(views) * (len(_COSTS) + 1)) as progress:
            margins: dict[tuple[int, float], np.ndarray] = {}
            for i, view in enumerate(views):
                seen, unseen = _matrix(view, learn), view.transform([row.text for row in check])
                for cost in _COSTS:
                    weights, offsets = _train(seen, self._truth(learn), cost)
                    margins[i, cost] = unseen @ weights + offsets
                    progress.advance(1)
            choices = {
                (used, cost): np.mean([margins[i, cost] for i in used], axis=0)
                for used in dict.fromkeys([*((i,) for i in range(len(views))), tuple(range(len(views)))])
                for cost in _COSTS
            }
            (used, cost), best = max(choices.items(), key=lambda item: self._right(item[1], check))
            self.sharpness = self._sharpness(best, check)
            self.parts = []
            for i in used:
                self.parts.append((views[i], *_train(_matrix(views[i], rows), self._truth(rows), cost)))
                progress.advance(1)
        return self

    def predict(self, rows: Sequence[TextRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        texts = [row.text for row in rows]
        margins = [view.transform(texts) @ weights + offsets for view, weights, offsets in self.parts]
        shares = self._shares(np.mean(margins, axis=0) * self.sharpness)
        return answers(
            [dict(zip(self.labels, map(float, own), strict=True)) for own in shares], self.multi_label
        )

    def _truth(self, rows: Sequence[TextRow]) -> np.ndarray:
        """Which labels each row has: bool (N, C)."""
        return np.array([[name in row.classes for name in self.labels] for row in rows])

    def _right(self, margins: np.ndarray, rows: Sequence[TextRow]) -> float:
        """Accuracy; F1 over all labels where there may be several."""
        truth = self._truth(rows)
        if not self.multi_label:
            return float(truth[np.arange(len(rows)), margins.argmax(1)].mean())
        said = margins > 0
        return 2 * float((truth & said).sum()) / max(float(truth.sum() + said.sum()), 1.0)

    def _shares(self, margins: np.ndarray) -> np.ndarray:
        """Probabilities: a softmax, or a logistic function of each where there may be several labels."""
        if self.multi_label:
            return 0.5 * (1 + np.tanh(margins / 2))
        powers = np.exp(margins - margins.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def _sharpness(self, margins: np.ndarray, rows: Sequence[TextRow]) -> float:
        """The factor of the margins that makes the answers of these rows likeliest (Guo et al. 2017, section 4.2)."""
        truth = self._truth(rows)

        def surprise(factor: float) -> float:
            shares = np.clip(self._shares(margins * factor), 1e-12, 1 - 1e-12)
            wrong = np.log1p(-shares[~truth]).sum() if self.multi_label else 0.0
            return -float(np.log(shares[truth]).sum() + wrong)

        return float(min(_SHARPNESS, key=surprise))


class PairOverlap(LabelledBaseline[TextRow]):
    """What two texts share, ten numbers (`similarity.FEATURES`), and logistic regression."""

    name: ClassVar[str] = "word overlap + logistic regression"

    def __init__(self, multi_label: bool = False) -> None:
        self.multi_label = multi_label
        self.weights = Weights((), words_and_letters)
        self.models: dict[str, Any] = {}

    def fit(self, rows: Sequence[TextRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        learn = _sklearn()
        self.weights = Weights((text for row in rows for text in row.texts), words_and_letters)
        features = self._features(rows)
        for label in sorted({name for row in rows for name in row.classes}):
            has = np.array([label in row.classes for row in rows])
            if has.all() or not has.any():
                self.models[label] = float(has[0])
                continue
            model = learn.pipeline.make_pipeline(
                learn.preprocessing.StandardScaler(), learn.linear_model.LogisticRegression(max_iter=1000)
            )
            self.models[label] = model.fit(features, has)
        return self

    def predict(self, rows: Sequence[TextRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        features = self._features(rows)
        columns = {
            label: np.full(len(rows), model)
            if isinstance(model, float)
            else model.predict_proba(features)[:, 1]
            for label, model in self.models.items()
        }
        shares = np.stack(list(columns.values()), axis=1)
        if not self.multi_label:
            shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
        return answers([dict(zip(columns, map(float, own), strict=True)) for own in shares], self.multi_label)

    def _features(self, rows: Sequence[TextRow]) -> np.ndarray:
        return np.array([overlap(row.text, row.text_pair or "", self.weights) for row in rows])


def answers(shares: Sequence[dict[str, float]], multi_label: bool) -> list[Answer]:
    """Answers from the probability of each label."""
    if multi_label:
        return [
            {"labels": [name for name, share in own.items() if share > 0.5], "probabilities": own}
            for own in shares
        ]
    return [{"label": max(own, key=own.__getitem__), "probabilities": own} for own in shares]


def _views(rows: Sequence[TextRow]) -> list[Any]:
    """Ways to look at the texts, the surest first: what turns texts into sparse matrices, still to be fitted."""
    tfidf = _sklearn().feature_extraction.text.TfidfVectorizer
    found = Counter(match.lastgroup for row in rows[:1000] for match in _LETTER.finditer(row.text[:500]))
    if found["cjk"] > found.total() / 4:
        return [tfidf(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)]
    words = tfidf(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    return [words, tfidf(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)]


def _matrix(view: Any, rows: Sequence[TextRow]) -> Any:
    """The rows as a view sees them, (rows, features); fits the view to them."""
    try:
        return view.fit_transform([row.text for row in rows])
    except ValueError as error:
        raise InputError(f"texts without any words ({error})", where=rows[0].where) from None


def _train(matrix: Any, truth: np.ndarray, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (features, C) and offsets (C,) of a classifier for each label."""
    learn = _sklearn()
    weights, offsets = np.zeros((matrix.shape[1], truth.shape[1])), np.zeros(truth.shape[1])
    for i, has in enumerate(truth.T):
        if has.all() or not has.any():
            offsets[i] = 1.0 if has.all() else -1.0
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", learn.exceptions.ConvergenceWarning)  # near enough by then
            model = learn.svm.LinearSVC(C=cost, random_state=0).fit(matrix, has)
        weights[:, i], offsets[i] = model.coef_[0], model.intercept_[0]
    return weights, offsets


def _sklearn() -> Any:
    """scikit-learn, with the parts that are used here.

    Raises:
        InputError: it is not installed.
    """
    try:
        import sklearn
        import sklearn.exceptions
        import sklearn.feature_extraction.text
        import sklearn.linear_model
        import sklearn.pipeline
        import sklearn.preprocessing
        import sklearn.svm
    except ImportError:
        do = "install it with `pip install 'melete[baselines]'`, or leave the baseline out with --no-baseline"
        raise InputError("the linear baseline needs scikit-learn", do=do) from None
    return sklearn
