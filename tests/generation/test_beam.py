"""Beams beside those of transformers with the same random weights: tokens and scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation import compiled
from melete.generation.beam import Hypothesis, beam_search
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.checkpoint import save_model
from melete.nn.writer import library

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

START, END, PAD, VOCAB = 0, 1, 2, 24
ENDS = (END, 6, 11, 15)  # several, so that answers end now and then
LENGTHS = (9, 4, 7)

# what they call as we do
SAME = (
    *("num_beams", "num_return_sequences", "length_penalty", "early_stopping"),
    *("no_repeat_ngram_size", "repetition_penalty", "min_new_tokens", "max_new_tokens"),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"num_beams": 4},
    "two": {"num_beams": 2, "num_return_sequences": 2},
    "many": {"num_beams": 7, "num_return_sequences": 5, "length_penalty": 0.6},
    "short": {"num_beams": 3, "length_penalty": -1.0},
    "long": {"num_beams": 3, "length_penalty": 2.0},
    "log-probability": {"num_beams": 3, "length_penalty": 0.0},
    "early": {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
    "never": {"num_beams": 3, "num_return_sequences": 3, "early_stopping": "never"},
    "never-long": {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.7},
    "n-grams": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "lengths": {"num_beams": 3, "min_new_tokens": 6, "max_new_tokens": 9, "num_return_sequences": 3},
    "forced": {"num_beams": 3, "forced_ids": (5,), "forced_eos": True, "max_new_tokens": 6},
    "forbidden": {"num_beams": 3, "forbidden_ids": (3, 4, 7)},
    "one end": {"num_beams": 3, "eos_ids": (END,), "num_return_sequences": 3},
    "one": {"num_beams": 2, "max_new_tokens": 1},
}


def theirs_of(settings: GenerationSettings) -> dict[str, Any]:
    """The same in their words."""
    words: dict[str, Any] = {"eos_token_id": list(settings.eos_ids), "pad_token_id": PAD, "do_sample": False}
    words |= {name: getattr(settings, name) for name in SAME}
    if settings.forced_ids:
        words["forced_bos_token_id"] = settings.forced_ids[0]
    if settings.forced_eos:
        words["forced_eos_token_id"] = settings.eos_ids[0]
    if settings.forbidden_ids:
        words["suppress_tokens"] = list(settings.forbidden_ids)
    return words


def settings_of(name: str) -> GenerationSettings:
    common = {"temperature": 0, "max_new_tokens": 14, "eos_ids": ENDS}
    return GenerationSettings(**{**common, **SETTINGS[name]})


@pytest.fixture(
    scope="module", params=["gpt2", "qwen3", "marian", "bart", "t5", "marian compiled", "bart compiled"]
)
def pair(request, tmp_path_factory, built):
    """Ours and theirs; answers end now and then."""
    family, *how = request.param.split()
    folder = tmp_path_factory.mktemp(family)
    ids = {"vocab_size": VOCAB, "eos_token_id": END, "pad_token_id": PAD}
    if family in kit.SIZES:
        ours = kit.tiny_network(family, "text-generation", seed=3, bos_token_id=START, **ids)
        opener = transformers.AutoModelForCausalLM
    else:
        ours = kit.tiny_network(family, "text2text-generation", seed=3, decoder_start_token_id=START, **ids)
        opener = transformers.AutoModelForSeq2SeqLM
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for (
            name,
            weight,
        ) in ours.named_parameters():  # an output that is the embedding must not repeat what it reads
            if weight.dim() > 1:
                weight.normal_(0, 0.2 if "token" in name else 0.5, generator=generator)
    save_model(folder, ours, tokenizer=None)
    with pytest.MonkeyPatch.context() as patch:
        if how:
            patch.setattr(compiled, "library", lambda _: built(library))
        yield ours, opener.from_pretrained(folder).eval()


def ours_of(model: Any, rows: list[list[int]], settings: GenerationSettings) -> list[list[Hypothesis]]:
    if model.family in kit.SIZES:
        return beam_search(model, rows, settings)
    return beam_search(model, [[START]] * len(rows), settings, sources=rows)


def answers_of(model: Any, rows: list[list[int]], settings: GenerationSettings) -> list[list[int]]:
    if model.family in kit.SIZES:
        return generate(model, rows, settings)
    return generate(model, [[START]] * len(rows), settings, sources=rows)


def their_answers(theirs: Any, rows: list[list[int]], settings: GenerationSettings, causal: bool) -> Any:
    """What they say, and the score of each."""
    batch = Batch.from_rows(rows, pad_id=PAD, left=causal)
    said = theirs.generate(
        batch.input_ids,
        attention_mask=batch.doc_ids.long(),
        return_dict_in_generate=True,
        output_scores=True,
        **theirs_of(settings),
    )
    begun = batch.input_ids.shape[1] if causal else 1
    return said.sequences[:, begun:].tolist(), said.sequences_scores.tolist()


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_and_scores_are_theirs(pair, name: str) -> None:
    ours, theirs = pair
    settings = settings_of(name)
    causal = ours.family in kit.SIZES
    # n-grams of padding count for them
    lengths = (6, 6, 6) if causal and name == "n-grams" else LENGTHS
    if causal and name == "forced":
        settings = GenerationSettings(
            temperature=0, num_beams=3, forced_eos=True, eos_ids=(END,), max_new_tokens=6
        )
    rows = [row.tolist() for row in kit.token_rows(*lengths, seed=8, vocab=VOCAB)]
    found = [answer for answers in ours_of(ours, rows, settings) for answer in answers]
    expected, scores = their_answers(theirs, rows, settings, causal)
    for answer, tokens, score in zip(found, expected, scores, strict=True):
        assert answer.tokens == tokens[: len(answer.tokens)]
        assert set(tokens[len(answer.tokens) :]) <= {PAD}
        assert answer.score == pytest.approx(score, rel=1e-6, abs=1e-5)
    assert answers_of(ours, rows, settings) == [answer.tokens for answer in found]


def test_the_settings_make_a_difference(pair) -> None:
    """Otherwise the test above would not test much."""
    ours, _ = pair
    rows = [row.tolist() for row in kit.token_rows(*LENGTHS, seed=8, vocab=VOCAB)]
    answers = {name: ours_of(ours, rows, settings_of(name)) for name in SETTINGS}
    best = {str([each[0].tokens for each in found]) for found in answers.values()}
    assert len(best) > 6
    lengths = {len(answer.tokens) for found in answers.values() for each in found for answer in each}
    assert len(lengths) > 4


def test_an_answer_does_not_depend_on_its_company(pair) -> None:
    ours, _ = pair
    rows = [row.tolist() for row in kit.token_rows(*LENGTHS, seed=8, vocab=VOCAB)]
    settings = settings_of("early")
    together = ours_of(ours, rows, settings)
    for row, found in zip(rows, together, strict=True):
        (alone,) = ours_of(ours, [row], settings)
        assert [answer.tokens for answer in alone] == [answer.tokens for answer in found]


def test_prompts_that_are_done_leave_the_batch_and_sources_are_read_once(pair, monkeypatch) -> None:
    ours, _ = pair
    rows = [row.tolist() for row in kit.token_rows(*range(1, 13), seed=9, vocab=VOCAB)]
    seen, encode = [], ours.encode
    monkeypatch.setattr(ours, "encode", lambda batch, cache: (seen.append(batch), encode(batch, cache))[1])
    ours_of(ours, rows, settings_of("early"))
    heights = [len(batch.input_ids) for batch in seen]
    if compiled.writer_of(ours) is not None:
        assert not heights, "compiled code reads the answers"
        return
    assert heights[:2] == [12, 12], "the beams of a prompt are one row"
    assert seen[1].input_ids.shape[1] == 4
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] < 12
    if ours.family not in kit.SIZES:
        assert [batch.source is None for batch in seen] == [False, *[True] * (len(seen) - 1)]


def test_beams_share_what_they_have_in_common_and_answer_as_rows_of_their_own(pair, monkeypatch) -> None:
    """Decoders go on past their context, where each beam is read again; positions that no beam sees are dropped."""
    ours, _ = pair
    rows = [row.tolist() for row in kit.token_rows(5, 17, seed=4, vocab=VOCAB)]
    settings = GenerationSettings(temperature=0, num_beams=4, max_new_tokens=2 * kit.CONTEXT, eos_ids=(END,))
    together = ours_of(ours, rows, settings)
    monkeypatch.setattr(type(ours), "branching", False)
    for found, expected in zip(together, ours_of(ours, rows, settings), strict=True):
        assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]


def test_sampling_and_greedy_answers_to_a_source(pair) -> None:
    ours, theirs = pair
    if ours.family in kit.SIZES:
        return
    rows = [row.tolist() for row in kit.token_rows(*LENGTHS, seed=8, vocab=VOCAB)]
    settings = GenerationSettings(temperature=0, max_new_tokens=12, eos_ids=(END,))
    expected = theirs.generate(
        (batch := Batch.from_rows(rows)).input_ids,
        attention_mask=batch.doc_ids.long(),
        max_new_tokens=12,
        do_sample=False,
    ).tolist()
    found = answers_of(ours, rows, settings)
    assert [
        answer + [PAD] * (len(row) - 1 - len(answer)) for answer, row in zip(found, expected, strict=True)
    ] == [row[1:] for row in expected]
    several = GenerationSettings(temperature=1.0, max_new_tokens=12, eos_ids=(END,), num_return_sequences=3)
    together = answers_of(ours, rows, several)
    assert len({tuple(answer) for answer in together[:3]}) == 3
    assert together[3:6] == answers_of(ours, rows[1:2], several)


def test_an_answer_stays_within_the_positions_of_the_decoder(pair) -> None:
    ours, _ = pair
    if ours.family in kit.SIZES:
        return
    endless = GenerationSettings(temperature=0, max_new_tokens=500)
    (answer,) = answers_of(ours, [[5, 6, 7]], endless)
    assert len(answer) == kit.CONTEXT - 1
    with pytest.raises(InputError, match=f"the source has 40 tokens, the model's context is {kit.CONTEXT}"):
        answers_of(ours, [[5] * 40], endless)
    with pytest.raises(InputError, match="0 sources for 1 prompts; expected 1"):
        generate(ours, [[START]], endless)
    with pytest.raises(InputError, match="the prompt fills the model's context"):
        generate(ours, [[5] * kit.CONTEXT], endless, sources=[[5]])


@torch.no_grad()
def test_beams_of_a_recurrent_model_keep_their_own_states() -> None:
    model = kit.tiny_network("lstm", "text2text-generation", vocab_size=VOCAB, initializer_range=0.6)
    rows = [row.tolist() for row in kit.token_rows(*LENGTHS, seed=8, vocab=VOCAB)]
    settings = settings_of("many")
    for row, found in zip(rows, ours_of(model, rows, settings), strict=True):
        for answer in found:
            read = kit.answering([torch.tensor(row)], [torch.tensor([START, *answer.tokens[:-1]])])
            says = model.logits(model.encode(read))[0].log_softmax(-1)  # (T, V), without a cache
            total = sum(says[place, token].item() for place, token in enumerate(answer.tokens))
            assert answer.score == pytest.approx(total / len(answer.tokens) ** 0.6, abs=1e-4)


@torch.no_grad()
def test_a_prompt_of_the_decoder_is_gone_on_with(pair) -> None:
    ours, theirs = pair
    if ours.family in kit.SIZES:
        return
    (row,) = kit.token_rows(6, vocab=VOCAB)
    settings = settings_of("plain")
    ((found,),) = beam_search(ours, [[START, 9, 8]], settings, sources=[row.tolist()])
    expected = theirs.generate(
        row[None], decoder_input_ids=torch.tensor([[START, 9, 8]]), **theirs_of(settings)
    )
    assert found.tokens == expected[0, 3:].tolist()
