"""`melete.load` and what it gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import encoder_models
import melete
from melete.api import LanguageModel
from melete.data.batch import Batch
from melete.errors import InputError


@pytest.fixture(scope="module")
def loaded(model_folder) -> LanguageModel:
    return melete.load(model_folder, device="cpu")


def test_a_prompt_gives_a_text_and_a_list_gives_a_list(loaded):
    text = loaded.generate("The king", max_new_tokens=12)
    assert isinstance(text, str)
    assert loaded.generate(["The king", "a"], max_new_tokens=12)[0] == text
    several = loaded.generate(["The king"], max_new_tokens=12, num_return_sequences=3)
    assert len(set(several)) == 3
    assert several[0] == text
    with pytest.raises(InputError, match="give the prompt as a list of one"):
        loaded.generate("The king", num_return_sequences=2)


def test_streamed_pieces_joined_are_the_text(loaded):
    pieces = list(loaded.stream("The king", max_new_tokens=80, seed=4))
    assert len(pieces) > 10
    assert "".join(pieces) == loaded.generate("The king", max_new_tokens=80, seed=4)


def test_the_text_is_cut_before_a_stop_text(loaded):
    whole = loaded.generate("The king", max_new_tokens=40)
    stop = whole[9:12]
    assert loaded.generate("The king", max_new_tokens=40, stop=stop) == whole[: whole.index(stop)]


def test_an_empty_prompt_starts_a_text(loaded):
    assert loaded.generate("", max_new_tokens=9) == loaded.generate("<|endoftext|>", max_new_tokens=9)


def test_an_end_of_text_token_ends_it(loaded):
    text = loaded.generate("x", temperature=30.0, max_new_tokens=3000)  # nearly uniform: it comes soon
    assert 0 < len(loaded.tokenizer.encode(text)) < 3000
    assert "<|endoftext|>" not in text


def test_perplexity_is_that_of_the_predictions(loaded):
    text = "The king of the castle"
    ids = [256, *text.encode()]
    known = {byte: loaded.tokenizer.encode(chr(byte))[0] for byte in set(text.encode())}
    ids = [256, *(known[byte] for byte in ids[1:])]
    with torch.no_grad():
        logits = loaded.model.logits(loaded.model.encode(Batch.from_rows([ids])))[0, :-1]
    expected = np.exp(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item())
    assert loaded.perplexity(text) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="too short"):
        loaded.perplexity("")


def test_the_context_is_resized_when_asked(model_folder):
    wide = melete.load(model_folder, context=96, device="cpu")
    assert wide.model.config.max_position_embeddings == 96
    assert isinstance(wide.generate("x" * 90, max_new_tokens=20), str)
    with pytest.raises(InputError, match="the prompt has 90 tokens, the model's context is 48"):
        melete.load(model_folder, device="cpu").generate("x" * 90)


def test_every_token_that_may_end_a_text_is_known(other_model_folder):
    (other_model_folder / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert melete.load(other_model_folder, device="cpu").eos_ids == (3, 4, 256)
    (other_model_folder / "generation_config.json").write_text("[")
    with pytest.raises(InputError, match=r"generation_config\.json: not a JSON object"):
        melete.load(other_model_folder, device="cpu")


def test_the_tokenizer_of_another_model_is_refused(other_model_folder):
    path = other_model_folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"vocab_size": 200, "bos_token_id": 0, "eos_token_id": 0})
    )
    with pytest.raises(
        InputError, match="the tokenizer has 257 tokens, the model knows 200; put the tokenizer"
    ):
        melete.load(other_model_folder)


def test_what_is_loaded_fits_the_model(tmp_path):
    folder = encoder_models.write(tmp_path, "bert")
    model = melete.load(folder, device="cpu", context=60)
    answers = model.predict(["The king [MASK] in", {"text": "我[MASK]"}], top_k=2)
    assert [len(answer["masks"][0]) for answer in answers] == [2, 2]
    assert model.predict("The king [MASK] in", top_k=2)["filled"] == answers[0]["filled"]
    assert "[MASK]" not in model.generate("The king [MASK]", length=40)
    with pytest.raises(InputError, match="fill-mask has no setting 'topk'; expected one like 'top_k'"):
        model.predict("[MASK]", topk=2)
    with pytest.raises(
        InputError, match="BertForMaskedLM has no head for text-generation; it is for fill-mask"
    ):
        melete.load(folder, task="text-generation")


def test_settings_are_checked_by_name(loaded):
    with pytest.raises(InputError, match="unknown setting 'temprature'"):
        loaded.generate("x", temprature=1)
    with pytest.raises(InputError, match=r"top_p is 1\.5"):
        loaded.stream("x", top_p=1.5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.1},
    ],
)
def test_greedy_text_equals_the_reference_implementation(loaded, model_folder, settings):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    inputs = tokenizer("The king", return_tensors="pt")
    expected = reference.generate(**inputs, do_sample=False, max_new_tokens=36, **settings)[
        0, inputs.input_ids.shape[1] :
    ]
    assert loaded.generate("The king", temperature=0, max_new_tokens=36, **settings) == tokenizer.decode(
        expected, skip_special_tokens=True
    )
