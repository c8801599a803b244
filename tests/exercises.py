"""Rules that an encoder-decoder can learn from examples: copy, reverse, sort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kit
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.base import EncoderDecoder
from melete.objectives.seq2seq import Pair, SequenceToSequence
from rig import run_config, trainer

START, END, PAD = 0, 1, 2
IDS = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD}

# As many as T5 itself has: fewer do not tell the places of a word from one another.
SIZES = {"t5": {"relative_attention_num_buckets": 32}}

RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "sort": np.sort,
}


class Exercises:
    """New words at every step, and some that no step has: what is learned is the rule."""

    def __init__(self, rule: str, longest: int, count: int) -> None:
        self.rule, self.longest, self.count = RULES[rule], longest, count

    def drawn(self, step: int, count: int, held_out: bool = False) -> list[Example]:
        found = []
        for index in range(count):
            draw, word = rng_for((0, step, index)), np.zeros(0)
            while not len(word) or (word.sum() % 8 == 0) != held_out:
                word = draw.integers(3, 13, draw.integers(1, self.longest + 1))
            found.append(Example((0, step, index), Pair(word, self.rule(word).copy())))
        return found

    def micro_batches(self, step: int) -> list[list[Example]]:
        return [self.drawn(step, self.count)]


def right_answers(
    model: EncoderDecoder, exercises: Exercises, count: int, beams: int = 1, held_out: bool = False
) -> float:
    """Share of new words, or of such as no step had, whose greedy or best answer is right."""
    pairs = [example.data for example in exercises.drawn(10**6, count, held_out)]
    settings = GenerationSettings(temperature=0, max_new_tokens=20, eos_ids=(END,), num_beams=beams)
    sources = [[*pair.source.tolist(), END] for pair in pairs]
    answers = generate(model, [[START]] * len(sources), settings, sources=sources)
    hits = [answer == [*pair.target.tolist(), END] for answer, pair in zip(answers, pairs, strict=True)]
    return sum(hits) / len(hits)


def learn(
    folder: Path, family: str, rule: str, longest: int, steps: int, rate: float, **changes: Any
) -> tuple[EncoderDecoder, Exercises]:
    exercises = Exercises(rule, longest, 64)
    sizes = {"vocab_size": 16, "initializer_range": 0.1, **IDS, **SIZES.get(family, {})}
    model: Any = kit.tiny_network(family, "text2text-generation", **sizes)
    config = run_config(
        training__steps=steps,
        optimizer__learning_rate=rate,
        optimizer__weight_decay=0.0,
        schedule__warmup_steps=50,
        **changes,
    )
    runner = trainer(folder, config, objective=SequenceToSequence(model, 0.05), train=exercises)
    runner.train()
    return runner.objective.model.eval(), exercises
