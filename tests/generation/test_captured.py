"""A step whose shapes never change says what plain decoding says, and never waits for the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from melete.generation import captured, reading
from melete.generation.captured import Step, Steps
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models import build
from melete.nn.cache import KVCache

VOCAB, CONTEXT = 64, 24
PROMPTS = [[5, 6, 7, 8, 9], [1], [30, 31, 32]]


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(f"{request.param}:nano", vocab_size=VOCAB, max_position_embeddings=CONTEXT, seed=1, **sizes)
    with torch.no_grad():
        for weight in model.parameters():  # far from uniform, so that answers differ
            if weight.dim() > 1:
                weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(weight.numel()))
    return model.eval()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every step that may be captured is one, but for the graph; the rows of each."""
    rows: list[int] = []

    class Counted(Step):
        def __call__(self, tokens: Any, positions: Any) -> torch.Tensor:
            rows.append(len(tokens))
            return super().__call__(tokens, positions)

        def capture(self) -> None:
            self.run()
            self.run()

    monkeypatch.setattr(captured, "Step", Counted)
    monkeypatch.setattr(captured, "_FEWEST_STEPS", 2)
    monkeypatch.setattr(captured, "_PATIENCE", 1)
    yield rows


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "Steps", lambda model, device: Steps(model, torch.device("cuda")))


def test_answers_are_those_of_plain_decoding(
    model: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerationSettings(temperature=0, max_new_tokens=3 * CONTEXT)  # beyond the context, twice
    plain = generate(model, PROMPTS, settings)
    assert not calls
    as_on_a_gpu(monkeypatch)
    begin = KVCache.__init__

    def never_written(cache: KVCache, *sizes: Any) -> None:
        begin(cache, *sizes)
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)

    monkeypatch.setattr(KVCache, "__init__", never_written)
    assert generate(model, PROMPTS, settings) == plain
    assert len(calls) > CONTEXT


def test_rows_that_end_leave_and_the_others_go_on(
    model: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(**ends: Any) -> GenerationSettings:
        return GenerationSettings(temperature=1, max_new_tokens=24, **ends)

    free = generate(model, PROMPTS, drawn())
    lengths = {token: [[*row, token].index(token) for row in free] for token in range(VOCAB)}
    last = next(token for token, ends in lengths.items() if min(ends) > 4 and len(set(ends)) == 3)
    ending = drawn(eos_ids=(last,))
    plain = generate(model, PROMPTS, ending)
    as_on_a_gpu(monkeypatch)
    assert generate(model, PROMPTS, ending) == plain
    assert len(set(calls)) > 1  # steps of all rows, and of fewer


def test_what_cannot_be_captured_is_said_and_decoded_without(
    model: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GenerationSettings(temperature=0, max_new_tokens=12)
    plain = generate(model, PROMPTS, settings)
    as_on_a_gpu(monkeypatch)

    def refuse(step: Step) -> None:
        step.run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(captured.Step, "capture", refuse)
    assert generate(model, PROMPTS, settings) == plain
    assert not calls
    said = capsys.readouterr().err
    assert said.count("decoding without a CUDA graph") == 1
    assert "operation not permitted when stream is capturing" in said


class Elsewhere(TorchDispatchMode):
    """Notes what reads or makes a tensor that is not on the device "meta", whose tensors have no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.device.type != "meta" for x in (*args, out)):
            self.seen.append(str(func))
        return out


def test_nothing_in_a_step_waits_for_the_device_or_copies_to_it(model: Any) -> None:
    """Either would break the recording. Whoever asks a tensor without numbers for one gets an error."""
    model = copy.deepcopy(model).to("meta")
    with torch.no_grad():
        cache = model.new_cache(3, CONTEXT)
        cache.length = 7
        step = Step(model, cache)
        step.run()  # the first pass makes tables, as the warm-up does
        with Elsewhere() as elsewhere:
            step.run()
            shape, device = step._logits.shape, step._logits.device.type
    assert (shape, device) == ((3, VOCAB), "meta")
    assert elsewhere.seen == []
    assert cache.place is None and cache.branches is None
    with pytest.raises((RuntimeError, NotImplementedError)), torch.no_grad():
        model.encode(step._batch, cache)  # a plain pass looks at numbers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_graph_says_what_plain_decoding_says(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GenerationSettings(temperature=0, max_new_tokens=16)
    monkeypatch.setattr(captured, "_FEWEST_STEPS", 2)
    monkeypatch.setattr(captured, "_PATIENCE", 10**9)
    model = model.to("cuda")
    try:
        plain = generate(model, PROMPTS, settings)
        monkeypatch.setattr(captured, "_PATIENCE", 1)
        assert generate(model, PROMPTS, settings) == plain
    finally:
        model.to("cpu")
    assert "without a CUDA graph" not in capsys.readouterr().err
