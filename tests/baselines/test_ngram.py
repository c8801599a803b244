"""The n-gram model against a slow, literal reading of Chen & Goodman, and against what any model owes."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from melete.baselines.ngram import FALLBACK_DISCOUNTS, TRUST_LEVELS, NGram, discounts
from melete.errors import InputError

VOCABULARY = 7


def history(ids: list[int], end: int, boundary: int | None) -> list[int]:
    """What may be known before position `end`: everything, or everything since the last boundary."""
    seen = ids[:end]
    if boundary is not None and boundary in seen:
        return seen[len(seen) - 1 - seen[::-1].index(boundary) :]
    return seen


class Literal:
    """Modified Kneser-Ney as the paper writes it: dictionaries and recursion."""

    def __init__(self, ids: list[int], vocab_size: int, order: int, boundary: int | None) -> None:
        self.vocab_size, self.order, self.boundary = vocab_size, order, boundary
        occurrences: dict[int, Counter] = {n: Counter() for n in range(1, order + 2)}
        opening: dict[int, Counter] = {n: Counter() for n in range(1, order + 2)}
        for end in range(1, len(ids)):
            whole = (*history(ids, end, boundary), ids[end])
            for n in range(1, min(len(whole), order) + 1):
                occurrences[n][whole[-n:]] += 1
            if len(whole) <= order:
                opening[len(whole)][whole] += 1
        self.counts: dict[int, Counter] = {order: occurrences[order]}
        for n in range(1, order):
            left = defaultdict(set)
            for gram in occurrences[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = Counter({gram: len(found) for gram, found in left.items()}) + opening[n]
        self.discounts = {n: discounts(np.array([*c.values(), 0])) for n, c in self.counts.items()}

    def probability(self, word: int, context: tuple[int, ...]) -> float:
        n = len(context) + 1
        lower = 1 / self.vocab_size if n == 1 else self.probability(word, context[1:])
        followers = {gram[-1]: c for gram, c in self.counts[n].items() if gram[:-1] == context}
        if not followers:
            return lower
        taken = {w: self.discounts[n][min(c, 3) - 1] for w, c in followers.items()}
        total = sum(followers.values())
        kept = followers[word] - taken[word] if word in followers else 0.0
        return kept / total + sum(taken.values()) / total * lower

    def score(self, ids: list[int]) -> list[float]:
        found = []
        for end in range(1, len(ids)):
            known = history(ids, end, self.boundary)[-(self.order - 1) :] if self.order > 1 else []
            found.append(float(np.log(self.probability(ids[end], tuple(known)))))
        return found


def stream(seed: int, length: int) -> np.ndarray:
    """Skewed random ids with some memory, so that every count of counts appears."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(0.4, length) - 1, VOCABULARY - 2)
    repeat = rng.random(length) < 0.3
    ids[2:][repeat[2:]] = ids[:-2][repeat[2:]]
    return ids


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("boundary", [None, 0])
def test_equals_the_paper_read_literally(order: int, boundary: int | None) -> None:
    train, held_out = stream(1, 300), stream(2, 80)
    model = NGram.train(train, VOCABULARY, order, boundary_id=boundary)
    literal = Literal(train.tolist(), VOCABULARY, order, boundary)
    np.testing.assert_allclose(
        model.token_log_probs(held_out), literal.score(held_out.tolist()), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("boundary", [None, 0])
@pytest.mark.parametrize("context", [[], [6], [1], [0, 1], [1, 0, 2], [6, 6, 6, 6], [0, 0, 1, 0, 0, 1, 2]])
def test_sums_to_one_and_agrees_with_scoring_in_seen_and_unseen_contexts(
    context: list[int], boundary: int | None
) -> None:
    model = NGram.train(stream(1, 400), VOCABULARY, boundary_id=boundary)
    after = model.next_log_probs(context)
    assert after.shape == (VOCABULARY,)
    assert np.exp(after).sum() == pytest.approx(1, abs=1e-12)
    if context:
        scored = [model.token_log_probs(np.array([*context, word]))[-1] for word in range(VOCABULARY)]
        np.testing.assert_allclose(after, scored, rtol=0, atol=1e-12)


def test_boundary_hides_what_precedes_it() -> None:
    model = NGram.train(stream(3, 400), VOCABULARY, boundary_id=0)
    assert np.array_equal(model.next_log_probs([1, 2, 0, 3]), model.next_log_probs([4, 4, 0, 3]))


def test_trust_is_told_without_looking_at_the_predicted_token() -> None:
    model = NGram.train(np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 5]), VOCABULARY, order=4)
    trust = np.array([model.score(np.array([1, 2, 3, word]))[1] for word in range(VOCABULARY)])
    assert (trust == trust[0]).all()
    assert (trust[0] // TRUST_LEVELS).tolist() == [1, 2, 3]
    assert (model.score(np.array([6, 2, 6]))[1] // TRUST_LEVELS).tolist() == [0, 1]


def test_discounts_come_from_counts_of_counts_or_fall_back() -> None:
    # Ten once, five twice, three times three, two four times: Y = 1/2.
    counts = np.repeat([1, 2, 3, 4], [10, 5, 3, 2])
    assert discounts(counts) == pytest.approx((0.5, 2 - 1.5 * 3 / 5, 3 - 2 * 2 / 3))
    assert discounts(np.array([1, 1, 2, 7])) == FALLBACK_DISCOUNTS
    assert discounts(np.repeat([1, 2, 3, 4], [2, 2, 30, 1])) == FALLBACK_DISCOUNTS


def test_shorter_than_its_order() -> None:
    model = NGram.train(np.array([1, 2, 1]), VOCABULARY, order=5)
    assert np.exp(model.next_log_probs([1, 2, 1, 2, 1])).sum() == pytest.approx(1)
    assert np.isfinite(model.token_log_probs(np.arange(VOCABULARY))).all()


def test_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = NGram.train(stream(1, 300), VOCABULARY, order=3, boundary_id=0)
    folder = model.save(tmp_path / "models" / "kn")
    assert sorted(path.name for path in folder.iterdir()) == ["ngram.json", "ngram.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["kn"]
    again = NGram.load(folder)
    held_out = stream(2, 50)
    assert np.array_equal(again.token_log_probs(held_out), model.token_log_probs(held_out))
    with pytest.raises(InputError, match="already exists"):
        model.save(folder)


def test_a_damaged_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ngram\.json"):
        NGram.load(tmp_path)
    folder = NGram.train(stream(1, 100), VOCABULARY).save(tmp_path / "kn")
    header = json.loads((folder / "ngram.json").read_text())
    (folder / "ngram.json").write_text(json.dumps(header | {"format": "other"}))
    with pytest.raises(InputError, match="format 'other' is unknown"):
        NGram.load(folder)
    (folder / "ngram.json").write_text(json.dumps(header))
    (folder / "ngram.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="damaged"):
        NGram.load(folder)


def test_what_it_cannot_learn_from() -> None:
    with pytest.raises(InputError, match="token id 9 is outside the vocabulary"):
        NGram.train(np.array([1, 9]), VOCABULARY)
    with pytest.raises(InputError, match="too few"):
        NGram.train(np.array([1]), VOCABULARY)
    with pytest.raises(InputError, match="order 0"):
        NGram.train(np.array([1, 2]), VOCABULARY, order=0)
    with pytest.raises(InputError, match="token id -1"):
        NGram.train(np.array([1, 2]), VOCABULARY).token_log_probs(np.array([1, -1]))


def wikitext(split: str) -> list[str]:
    """The words of WikiText-2 after one <eos>: each line's, and one <eos> a line, for blank lines too."""
    words = ["<eos>"]
    path = Path(os.environ["MELETE_DATA"]) / "wikitext-2" / f"{split}.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            words += line.split()
            words.append("<eos>")
    return words


@pytest.mark.skipif("MELETE_DATA" not in os.environ, reason="needs WikiText-2 under $MELETE_DATA")
@pytest.mark.parametrize("sentences", [False, True])
def test_wikitext_2_perplexity_is_that_of_the_literature(sentences: bool) -> None:
    train, valid = wikitext("train"), wikitext("valid")
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(train))}
    assert len(vocabulary) == 33_278
    boundary = vocabulary["<eos>"] if sentences else None
    model = NGram.train(np.array([vocabulary[w] for w in train]), len(vocabulary), boundary_id=boundary)
    log_probs = model.token_log_probs(np.array([vocabulary[w] for w in valid]))
    assert len(log_probs) == 217_646
    assert np.exp(-log_probs.mean()) == pytest.approx(233.9, abs=1.5)
