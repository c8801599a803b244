"""The decoding loop on tiny models with random weights."""

from __future__ import annotations

import pytest
import torch

from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models import build

VOCAB, CONTEXT = 64, 24
PROMPTS = [[5, 6, 7, 8, 9], [1], [30, 31, 32]]


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def model(request):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(f"{request.param}:nano", vocab_size=VOCAB, max_position_embeddings=CONTEXT, seed=1, **sizes)
    with torch.no_grad():
        for weight in model.parameters():  # far from uniform, so that answers differ
            if weight.dim() > 1:
                weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(weight.numel()))
    return model.eval()


def greedy(**changes) -> GenerationSettings:
    return GenerationSettings(temperature=0, **{"max_new_tokens": 12, **changes})


def likeliest(model, ids: list[int]) -> int:
    """The greedy token without any cache."""
    with torch.no_grad():
        return int(model.logits(model.encode(Batch.from_rows([ids])))[0, -1].argmax())


def continued(model, prompt: list[int], tokens: int) -> list[int]:
    """The plain definition of what `generate` does: read everything again for each token, newest half when full."""
    seen, answer = list(prompt), []
    for _ in range(tokens):
        answer.append(likeliest(model, seen))
        seen.append(answer[-1])
        if len(seen) > CONTEXT:
            seen = seen[-CONTEXT // 2 :]
    return answer


def test_greedy_with_cache_and_padding_equals_reading_everything_again(model):
    assert generate(model, PROMPTS, greedy()) == [continued(model, prompt, 12) for prompt in PROMPTS]


def test_beyond_the_context_the_newest_half_goes_on(model):
    answers = generate(model, PROMPTS, greedy(max_new_tokens=3 * CONTEXT))
    assert answers == [continued(model, prompt, 3 * CONTEXT) for prompt in PROMPTS]


def test_an_end_token_ends_no_answer_before_its_time(model):
    first = generate(model, PROMPTS, greedy(max_new_tokens=1))[0][0]
    settings = greedy(max_new_tokens=6, min_new_tokens=3, eos_ids=(first,))
    assert first in generate(model, PROMPTS[:1], greedy(max_new_tokens=6, eos_ids=(first,)))[0][:1]
    for answer in generate(model, PROMPTS, settings):
        assert len(answer) >= 3
        assert first not in answer[:3]


def test_tokens_that_must_and_must_not_come(model):
    plain = generate(model, PROMPTS, greedy())[0]
    banned = generate(model, PROMPTS, greedy(forbidden_ids=(plain[0],)))
    assert not any(plain[0] in answer for answer in banned)
    for answer in generate(model, PROMPTS, greedy(forced_ids=(7, 8), forced_eos=True, eos_ids=(63,))):
        assert answer[:2] == [7, 8]
        assert answer[-1] == 63
    after = generate(model, [[*PROMPTS[0], 7, 8]], greedy(max_new_tokens=10))[0]
    assert generate(model, PROMPTS[:1], greedy(forced_ids=(7, 8)))[0] == [7, 8, *after]


def test_a_prompt_that_fills_the_context_goes_on(model):
    prompt = list(range(CONTEXT))
    assert generate(model, [prompt], greedy()) == [continued(model, prompt, 12)]


def test_an_answer_does_not_depend_on_its_company(model):
    settings = GenerationSettings(
        max_new_tokens=2 * CONTEXT, temperature=1.0, top_k=20, seed=3, eos_ids=(0, 1)
    )
    together = generate(model, PROMPTS, settings)
    assert [generate(model, [prompt], settings)[0] for prompt in PROMPTS] == together
    assert len({len(answer) for answer in together}) > 1, "rows should end at different times here"


def test_the_seed_decides(model):
    def draw(seed):
        return generate(model, PROMPTS, GenerationSettings(max_new_tokens=10, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_several_answers_to_a_prompt_differ_and_the_first_is_the_one_alone(model):
    settings = GenerationSettings(max_new_tokens=10, temperature=1.0, num_return_sequences=3)
    answers = generate(model, PROMPTS, settings)
    assert len(answers) == 9
    assert len({tuple(answer) for answer in answers[:3]}) == 3
    assert answers[::3] == generate(model, PROMPTS, GenerationSettings(max_new_tokens=10, temperature=1.0))


def test_an_end_token_ends_one_answer_and_not_the_others(model):
    plain = generate(model, PROMPTS, greedy())
    end = plain[0][3]
    stopped = generate(model, PROMPTS, greedy(eos_ids=(end,)))
    assert stopped[0] == plain[0][: plain[0].index(end) + 1]
    assert stopped == [answer[: answer.index(end) + 1] if end in answer else answer for answer in plain]


class Letters:
    def decode(self, ids):
        return "".join(f"{i:02d} " for i in ids)


def test_a_stop_text_ends_the_answer_across_tokens(model):
    tokens = generate(model, PROMPTS[:1], greedy())[0]
    text = Letters().decode(tokens)
    stop = text[7:12]  # from the middle of one token to the middle of another
    pieces = []
    settings = greedy(stop=(stop,))
    answer = generate(model, PROMPTS[:1], settings, tokenizer=Letters(), on_token=pieces.append)[0]
    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
    assert answer == tokens[: len(answer)]
    assert len(answer) < len(tokens)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    with pytest.raises(InputError, match="stop texts need a tokenizer"):
        generate(model, PROMPTS[:1], settings)


def test_each_step_reads_one_column_and_only_unfinished_rows(model, monkeypatch):
    shapes = []
    encode = model.encode
    monkeypatch.setattr(
        model, "encode", lambda batch, cache: (shapes.append(batch.input_ids.shape), encode(batch, cache))[1]
    )
    end = generate(model, PROMPTS, greedy())[0][2]
    shapes.clear()
    generate(model, PROMPTS[:1] * 2, greedy(max_new_tokens=6, num_return_sequences=2))
    assert shapes == [(1, 5), *[(4, 1)] * 5], "equal prompts are read once"
    shapes.clear()
    answers = generate(model, PROMPTS, greedy(eos_ids=(end,)))
    assert sum(rows for rows, _ in shapes) == sum(map(len, answers))


def test_a_model_in_training_is_left_in_training_and_answers_without_dropout(model):
    try:
        expected = generate(model, PROMPTS, greedy())
        model.train()
        assert generate(model, PROMPTS, greedy()) == expected
        assert model.training
        assert all(module.training for module in model.modules())
    finally:
        model.eval()


def test_a_prompt_longer_than_the_context_is_refused_or_cut_when_asked(model):
    prompt = [i % VOCAB for i in range(40)]
    with pytest.raises(InputError, match=r"the prompt has 40 tokens, the model's context is 24; shorten it"):
        generate(model, [prompt], greedy())
    assert generate(model, [prompt], greedy(truncate=True)) == generate(model, [prompt[-CONTEXT:]], greedy())


def test_bad_prompts_are_refused(model):
    with pytest.raises(InputError, match="a prompt has no tokens"):
        generate(model, [[1], []], greedy())
    with pytest.raises(InputError, match="token 64, the model knows 64"):
        generate(model, [[64]], greedy())
    assert generate(model, [], greedy()) == []


def test_damaged_weights_are_named():
    broken = build("gpt2:nano", vocab_size=8, max_position_embeddings=8)
    with torch.no_grad():
        broken.token_embeddings.weight[3, 0] = torch.nan
    with pytest.raises(InputError, match="weights are damaged"):
        generate(broken, [[3]], greedy())
