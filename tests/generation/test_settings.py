from __future__ import annotations

import math

import pytest

from melete.errors import InputError
from melete.generation.settings import GenerationSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("no_repeat_ngram_size", -2),
        ("stop", ["fine", ""]),
        ("seed", -1),
        ("num_return_sequences", 0),
        ("num_beams", 0),
        ("length_penalty", math.inf),
        ("forced_eos", True),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(name, value):
    with pytest.raises(InputError, match=rf"^{name} is .*; expected"):
        GenerationSettings.of({name: value})


@pytest.mark.parametrize("changes", [{"temperature": 0.8}, {"num_return_sequences": 4}, {"stop": "."}])
def test_what_beams_cannot_do_is_refused(changes):
    (name,) = changes
    with pytest.raises(InputError, match=rf"^{name} is .*; expected .*num_beams"):
        GenerationSettings.of({"num_beams": 3, "temperature": 0, **changes})


def test_a_value_of_the_wrong_type_is_named():
    with pytest.raises(InputError, match=r"^top_k: Expected `int`, got `str`"):
        GenerationSettings.of({"top_k": "many"})


def test_a_mistyped_setting_names_the_nearest():
    with pytest.raises(InputError, match="unknown setting 'temprature'; expected one like 'temperature'"):
        GenerationSettings.of({"temprature": 1.0})


def test_stop_may_be_one_text_or_several():
    assert GenerationSettings.of({"stop": "END"}).stop == ("END",)
    assert GenerationSettings.of({"stop": ["a", "b"]}).stop == ("a", "b")
