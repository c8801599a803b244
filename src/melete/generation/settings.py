"""What a person may ask of a model that writes: one that continues a text, or one that fills its masks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import msgspec

from melete.errors import InputError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of writing share.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token (greedy).
        seed: the same seed gives the same answer, whatever else is in the batch.
        num_return_sequences: answers per prompt.
    """

    temperature: float = 0.8
    seed: int = 0
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        for right, name, expected in self._rules():
            if not right:
                raise InputError(f"{name} is {getattr(self, name)!r}", expected=expected)

    def _rules(self) -> list[tuple[bool, str, str]]:
        """Whether a field is right, its name, and what it should be."""
        return [
            (0 <= self.temperature < math.inf, "temperature", "0 (greedy) or more"),
            (0 <= self.seed < 2**63, "seed", "between 0 and 2**63 - 1"),
            (self.num_return_sequences >= 1, "num_return_sequences", "1 or more"),
        ]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain values by name.

        Raises:
            InputError: an unknown name (the nearest is named), a value of the wrong type or out of range.
        """
        for name in values:
            if name not in cls.__struct_fields__:
                near = difflib.get_close_matches(name, cls.__struct_fields__, 1)
                expected = f"one like {near[0]!r}" if near else f"one of {', '.join(cls.__struct_fields__)}"
                raise InputError(f"unknown setting {name!r}", expected=expected)
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$.")
            raise InputError(what, where=place.rstrip("`")) from None


class GenerationSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a text is continued. Each default but `temperature` leaves the distribution as it is; see `Settings`.

    Penalties come first, then temperature, then top-k, top-p, min-p and typical-p, each on what the one before kept.

    Attributes:
        max_new_tokens: most tokens to add to a prompt.
        min_new_tokens: `eos_ids` do not end an answer before this many.
        top_k: keep the k likeliest tokens; 0 is off.
        top_p: keep the fewest likeliest tokens whose probabilities add up to this; 1 is off.
        min_p: keep tokens at least this probable relative to the likeliest; 0 is off.
        typical_p: keep the tokens closest to the expected surprise, up to this mass; 1 is off.
        repetition_penalty: weakens tokens of the prompt and the answer; 1 is off.
        frequency_penalty: subtracted once per earlier occurrence in the answer; 0 is off.
        presence_penalty: subtracted once if the token is in the answer; 0 is off.
        no_repeat_ngram_size: no run of this many tokens occurs twice; 0 is off.
        forced_ids: tokens that an answer begins with, whatever the model says.
        forbidden_ids: tokens that never come.
        forced_eos: an answer that would grow too long ends with the first of `eos_ids`.
        stop: texts that end the answer; they are not part of it.
        eos_ids: tokens that end the answer.
        truncate: a prompt longer than the context loses its beginning instead of being refused.
        num_beams: answers that grow side by side, of which the likeliest go on; 1 is off. With a temperature of 0.
        length_penalty: beams compare log-probability / tokens ** this, so that above 0 longer answers gain.
        early_stopping: beams stop once there are `num_beams` finished answers (true), once a better one is unlikely
            by the present lengths (false), or only when none can come any more ("never").
        coverage_penalty: beams that end gain this times the sum, over the tokens of the source, of the logarithm of the
            attention that each was given in all, 1 at most: so that nothing is left out (Wu et al. 2016, equation 14).
        num_beam_groups: beams grow in so many groups, one after another, each of which avoids what those before it
            say at the same place (Vijayakumar et al. 2018); 1 is off.
        diversity_penalty: taken from the log-probability of a token for each beam of an earlier group that has it;
            it decides which beams go on, and is no part of their score.
        required_ids: phrases that an answer must contain, in any order; with `num_beams`, best more of them than all
            phrases have tokens (Post and Vilar 2018).
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    forced_ids: tuple[int, ...] = ()
    forbidden_ids: tuple[int, ...] = ()
    forced_eos: bool = False
    stop: tuple[str, ...] = ()
    eos_ids: tuple[int, ...] = ()
    truncate: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    coverage_penalty: float = 0.0
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    required_ids: tuple[tuple[int, ...], ...] = ()

    def _rules(self) -> list[tuple[bool, str, str]]:
        return [
            *super()._rules(),
            (self.max_new_tokens >= 1, "max_new_tokens", "1 or more"),
            (self.top_k >= 0, "top_k", "0 (off) or more"),
            (0 < self.top_p <= 1, "top_p", "above 0, at most 1 (off)"),
            (0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1"),
            (0 < self.typical_p <= 1, "typical_p", "above 0, at most 1 (off)"),
            (0 < self.repetition_penalty < math.inf, "repetition_penalty", "above 0; 1 is off"),
            (math.isfinite(self.frequency_penalty), "frequency_penalty", "a finite number; 0 is off"),
            (math.isfinite(self.presence_penalty), "presence_penalty", "a finite number; 0 is off"),
            (self.min_new_tokens >= 0, "min_new_tokens", "0 or more"),
            (self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "0 (off) or more"),
            (all(self.stop), "stop", "texts of at least one character"),
            (bool(self.eos_ids) or not self.forced_eos, "forced_eos", "false without eos_ids"),
            (self.num_beams >= 1, "num_beams", "1 (off) or more"),
            (math.isfinite(self.length_penalty), "length_penalty", "a finite number; 0 is off"),
            *self._rules_of_beams(),
        ]

    def _rules_of_beams(self) -> list[tuple[bool, str, str]]:
        grouped, required = self.num_beam_groups > 1, sum(map(len, self.required_ids))
        if self.num_beams <= 1:
            return [
                (self.num_beam_groups == 1, "num_beam_groups", "1 (off) without num_beams above 1"),
                (not required, "required_ids", "nothing without num_beams above 1"),
                (self.coverage_penalty == 0, "coverage_penalty", "0 (off) without num_beams above 1"),
            ]
        whole = self.num_beam_groups >= 1 and self.num_beams % self.num_beam_groups == 0
        answers = self.num_return_sequences <= self.num_beams
        return [
            (self.temperature == 0, "temperature", "0 with num_beams above 1, as beams draw nothing"),
            (answers, "num_return_sequences", f"at most num_beams, {self.num_beams}"),
            (not self.stop, "stop", "no texts with num_beams above 1"),
            (whole, "num_beam_groups", f"a divisor of num_beams, {self.num_beams}"),
            (0 <= self.coverage_penalty < math.inf, "coverage_penalty", "0 (off) or more"),
            (0 <= self.diversity_penalty < math.inf, "diversity_penalty", "0 (off) or more"),
            (grouped or not self.diversity_penalty, "diversity_penalty", "0 without num_beam_groups above 1"),
            (all(self.required_ids), "required_ids", "phrases of at least one token"),
            (not (grouped and required), "required_ids", "nothing with num_beam_groups above 1"),
            (required <= self.max_new_tokens, "required_ids", "at most max_new_tokens tokens"),
        ]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain values by name; `stop` may be one text. See `Settings.of`."""
        stop = values.get("stop", ())
        return super().of({**values, "stop": [stop] if isinstance(stop, str) else stop})


class MaskPredictSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How masks are filled; see `Settings`.

    Attributes:
        length: masks to add behind the prompt.
        iterations: times that masks are filled; before each but the first, the tokens the model was least sure of
            become masks again.
    """

    length: int = 0
    iterations: int = 10

    def _rules(self) -> list[tuple[bool, str, str]]:
        return [
            *super()._rules(),
            (self.length >= 0, "length", "0 or more"),
            (self.iterations >= 1, "iterations", "1 or more"),
        ]
