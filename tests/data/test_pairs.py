"""Pairs on their way to a model: in batches of like lengths, their words in several forms."""

from __future__ import annotations

import numpy as np
import pytest

from melete.data.pair_batches import AllPairs, PairBatches
from melete.data.segmentation import Segmentations
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from task_examples import SENTENCES, tokenizer


def test_an_epoch_reads_each_pair_once_within_the_budget_and_with_little_padding() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(4, 30, (3000, 1)) + draw.integers(-2, 3, (3000, 2))
    source = PairBatches(lambda epoch: (list(range(3000)), lengths), 2000, 700)
    first, places = source.steps, 0
    for epoch in range(2):
        begin = epoch * first
        steps = [source.micro_batches(step) for step in range(begin, begin + source._ends[epoch] - begin)]
        for step in steps:
            sizes = [lengths[[example.data for example in batch]] for batch in step]
            assert all(own.max(0).sum() * len(own) <= 700 for own in sizes)
            places += sum(own.max(0).sum() * len(own) for own in sizes)
        read = [example.data for step in steps for batch in step for example in batch]
        assert sorted(read) == list(range(3000))
        source.micro_batches(source._ends[epoch])
    assert 2 * lengths.sum() / places > 0.93
    later = PairBatches(lambda epoch: (list(range(3000)), lengths), 2000, 700)
    assert later.micro_batches(first + 3) == source.micro_batches(first + 3)
    (every,) = [AllPairs(list(range(3000)), lengths, 2000).micro_batches(0)]
    assert sorted(example.key[2] for batch in every for example in batch) == list(range(3000))


def test_words_have_many_forms_that_spell_the_same() -> None:
    own = tokenizer("byte-bpe")
    forms = set()
    for dropout in (0.0, 0.5):
        table, again = Segmentations(own, dropout), Segmentations(own, dropout)
        for text in SENTENCES:
            words = table.words(text)
            assert (again.words(text) == words).all()
            for seed in range(3):
                ids = table.draw(words, np.random.default_rng(seed))
                assert own.decode(ids) == text
                assert (ids == again.draw(words, np.random.default_rng(seed))).all()
                if dropout:
                    forms.add(tuple(ids))
                else:
                    assert ids.tolist() == own.encode(text)
    assert len(forms) > 2 * len(SENTENCES)


def test_a_tokenizer_without_merges_is_refused() -> None:
    with pytest.raises(InputError, match="BPE-dropout leaves out merges"):
        Segmentations(tokenizer("wordpiece"), 0.1)


def test_texts_end_for_others_too() -> None:
    own = tokenizer("byte-bpe")
    ended = own.ended()
    assert ended.encode("a film") == own.encode("a film")
    assert ended._tokenizer.encode("a film").ids == [*own.encode("a film"), own.eos_id]
    with pytest.raises(InputError, match="no token that ends a text"):
        Tokenizer.train(SENTENCES, "wordpiece", 200).ended()
