"""Pairs of outputs in a fair and blind order, ratings that outlive the program, and what they come to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from melete.errors import InputError
from melete.evaluation.rating import Pairing, Ratings, pair

COUNT = 200


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[str, str]:
    """Two files of outputs; every tenth row is the same in both."""
    for name in "ab":
        lines = [f"output {i} of {name if i % 10 else 'both'}" for i in range(COUNT)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "a.txt"), str(tmp_path / "b.txt")


def test_rows_are_asked_in_one_shuffled_order_and_sides_are_drawn(outputs: tuple[str, str]) -> None:
    pairing = pair(*outputs)
    numbers = [item.number for item in pairing.items]
    assert pairing.equal == 20
    assert len(numbers) == 180
    assert numbers != sorted(numbers)
    assert numbers == [item.number for item in pair(*outputs).items]
    ann, ben = ([pairing.first_is_left(item, rater) for item in pairing.items] for rater in ("ann", "ben"))
    assert ann != ben
    assert 0.4 < sum(ann) / len(ann) < 0.6
    assert ann == [pairing.first_is_left(item, "ann") for item in pairing.items]
    item = pairing.items[0]
    assert item.outputs == (f"output {item.number - 1} of a", f"output {item.number - 1} of b")


def test_prompts_stand_in_a_file_or_beside_the_outputs(tmp_path: Path) -> None:
    rows = [[{"prompt": f"ask {i}", "text": f"{name} {i}"} for i in range(3)] for name in "ab"]
    for name, own in zip("ab", rows, strict=True):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    (tmp_path / "p.txt").write_text("问 0\n问 1\n问 2\n")
    files = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    assert {item.prompt for item in pair(*files).items} == {"ask 0", "ask 1", "ask 2"}
    given = pair(*files, prompts=str(tmp_path / "p.txt"))
    assert {item.prompt for item in given.items} == {"问 0", "问 1", "问 2"}
    assert given.fingerprint != pair(*files).fingerprint


def rate(path: Path, pairing: Pairing, rater: str, choices: str) -> None:
    """A letter a row: f(irst), s(econd), t(ie), x (skip)."""
    ratings = Ratings(path, pairing.fingerprint)
    names = {"f": "first", "s": "second", "t": "tie", "x": "skip"}
    for item, choice in zip(pairing.items, choices, strict=False):
        left = "first" if pairing.first_is_left(item, rater) else "second"
        ratings.add(item.number, rater, names[choice], left)


def test_ratings_come_back_and_the_last_word_counts(outputs: tuple[str, str], tmp_path: Path) -> None:
    pairing, path = pair(*outputs), tmp_path / "r.jsonl"
    rate(path, pairing, "ann", "fst")
    ratings = Ratings(path, pairing.fingerprint)
    first, second, third = (item.number for item in pairing.items[:3])
    assert list(ratings.of("ann").items()) == [(first, "first"), (second, "second"), (third, "tie")]
    ratings.add(second, "ann", None, "")
    ratings.add(first, "ann", "tie", "first")
    assert list(Ratings(path, pairing.fingerprint).of("ann").items()) == [(third, "tie"), (first, "tie")]
    assert ratings.of("ben") == {}


def test_preference_and_agreement(outputs: tuple[str, str], tmp_path: Path) -> None:
    pairing, path = pair(*outputs), tmp_path / "r.jsonl"
    rate(path, pairing, "ann", "s" * 60 + "f" * 20 + "t" * 20 + "x" * 5)
    found = Ratings(path, pairing.fingerprint).summary()
    assert [found[key] for key in ("rows", "first", "second", "tie", "skip")] == [100, 20, 60, 20, 5]
    assert found["preference"] == pytest.approx(0.7)
    assert 0.55 < found["low"] < 0.65 < 0.75 < found["high"] < 0.85
    assert 0.3 < found["left"] < 0.7
    assert (found["rated_twice"], math.isnan(found["alpha"])) == (0, True)
    rate(path, pairing, "ben", "s" * 60 + "f" * 10 + "s" * 10)
    found = Ratings(path, pairing.fingerprint).summary()
    assert (found["raters"], found["rated_twice"]) == (["ann", "ben"], 80)
    assert found["agreement"] == pytest.approx(70 / 80)
    assert 0.4 < found["alpha"] < 0.8
    assert found["preference"] == pytest.approx((60 + 10 * 0.5 + 20 * 0.5) / 100)  # the mean of each row


def test_files_of_several_raters_may_be_joined(outputs: tuple[str, str], tmp_path: Path) -> None:
    pairing = pair(*outputs)
    for rater in ("ann", "ben"):
        rate(tmp_path / f"{rater}.jsonl", pairing, rater, "fst")
    both = tmp_path / "both.jsonl"
    both.write_text("".join((tmp_path / f"{rater}.jsonl").read_text() for rater in ("ann", "ben")))
    found = Ratings(both, pairing.fingerprint).summary()
    assert (found["rated_twice"], found["agreement"], found["alpha"]) == (3, 1.0, 1.0)


def test_nothing_rated_yet(outputs: tuple[str, str], tmp_path: Path) -> None:
    found = Ratings(tmp_path / "r.jsonl", pair(*outputs).fingerprint).summary()
    assert (found["rows"], found["raters"]) == (0, [])
    assert all(math.isnan(found[key]) for key in ("preference", "left", "agreement", "alpha"))


def test_what_is_not_a_rating_is_refused(outputs: tuple[str, str], tmp_path: Path) -> None:
    pairing, path = pair(*outputs), tmp_path / "r.jsonl"
    rate(path, pairing, "ann", "f")
    with pytest.raises(InputError, match=r"r\.jsonl:1: a rating of other outputs; choose another --out"):
        Ratings(path, "another")
    path.write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"r\.jsonl:1: no rating; expected a file that `melete rate` wrote"):
        Ratings(path, pairing.fingerprint)
    with pytest.raises(
        InputError, match=r"r\.txt: not a file for ratings; expected a name that ends in \.jsonl"
    ):
        Ratings(tmp_path / "r.txt", pairing.fingerprint)
    (tmp_path / "c.txt").write_text("one\n")
    with pytest.raises(InputError, match=r"c\.txt: 1 rows; expected as many as .*a\.txt has \(200\)"):
        pair(outputs[0], str(tmp_path / "c.txt"))
    with pytest.raises(InputError, match=r"a\.txt: every output is the same in both files"):
        pair(outputs[0], outputs[0])
