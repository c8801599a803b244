"""The Python API: `melete.load(folder)` is a model with the methods that fit it (`generate`, `predict`, ...)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer
    from melete.generation.drafting import Drafter
    from melete.models.base import Decoder
    from melete.tasks.fill_mask import FillMask


@dataclass(frozen=True)
class LanguageModel:
    """A model that continues text, and the tokenizer it was trained with.

    Attributes:
        model: the network, in evaluation mode.
        tokenizer: text to ids and back.
        folder: where both were read from.
        eos_ids: tokens that end a text.
    """

    model: Decoder
    tokenizer: Tokenizer
    folder: Path
    eos_ids: tuple[int, ...]

    @overload
    def generate(self, prompt: str, *, drafter: Drafter | None = None, **settings: Any) -> str: ...
    @overload
    def generate(
        self, prompt: list[str], *, drafter: Drafter | None = None, **settings: Any
    ) -> list[str]: ...
    def generate(
        self, prompt: str | list[str], *, drafter: Drafter | None = None, **settings: Any
    ) -> str | list[str]:
        """Continue a prompt, or several at once; only what is new is returned.

        Args:
            prompt: a text, or several. An empty one starts from the token that begins a text.
            drafter: guesses tokens ahead, which changes nothing but the time: `generation.drafting.PromptDrafter()`,
                `baselines.drafting.NGramDrafter(ngram)`. For one answer. The latter draws its guesses at a temperature
                above 0, which gives another text from the same distribution.
            settings: fields of `GenerationSettings`. With `num_return_sequences=n` and a list of prompts, n answers to
                the first prompt stand before those to the second.

        Raises:
            InputError: an unknown or impossible setting; a prompt longer than the context.
        """
        from melete.generation.generate import encode_prompt, stream
        from melete.generation.settings import GenerationSettings

        chosen = GenerationSettings.of({"eos_ids": self.eos_ids, **settings})
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if isinstance(prompt, str) and chosen.num_return_sequences > 1:
            raise InputError("several answers come back as a list", do="give the prompt as a list of one")
        ids = [encode_prompt(self.tokenizer, text) for text in prompts]
        answers: list[list[str]] = [[] for _ in range(len(prompts) * chosen.num_return_sequences)]
        for piece in stream(self.model, ids, chosen, self.tokenizer, drafter=drafter):
            answers[piece.answer].append(piece.text)
        texts = ["".join(parts) for parts in answers]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece; no piece ends inside a character.

        Raises:
            InputError: as `generate`, and more than one answer asked for.
        """
        from melete.generation.generate import encode_prompt, stream
        from melete.generation.settings import GenerationSettings

        chosen = GenerationSettings.of({"eos_ids": self.eos_ids, **settings})
        if chosen.num_return_sequences > 1:
            raise InputError("only one answer can be streamed", do="use generate for several")
        pieces = stream(self.model, [encode_prompt(self.tokenizer, prompt)], chosen, self.tokenizer)
        return (piece.text for piece in pieces if piece.text)

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-probability of the text's tokens, each with at least half a context before it.

        Raises:
            InputError: a text of which no token can be predicted.
        """
        import numpy as np

        from melete.evaluation.evaluate import token_log_probs

        ids = self.tokenizer.encode(text)
        if self.tokenizer.bos_id is not None:
            ids = [self.tokenizer.bos_id, *ids]
        if len(ids) < 2:
            raise InputError("the text is too short for a perplexity", expected="at least two tokens")
        context = self.model.config.max_position_embeddings
        stride = max(context // 2, 1)
        return math.exp(-token_log_probs(self.model, np.array(ids), context=context, stride=stride).mean())


@overload
def load(
    source: str | Path,
    *,
    task: Literal["text-generation"],
    context: int | None = None,
    rope_scaling: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> LanguageModel: ...
@overload
def load(
    source: str | Path,
    *,
    task: Literal["fill-mask"],
    context: int | None = None,
    rope_scaling: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> FillMask: ...
@overload
def load(
    source: str | Path,
    *,
    task: str | None = None,
    context: int | None = None,
    rope_scaling: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Any: ...
def load(
    source: str | Path,
    *,
    task: str | None = None,
    context: int | None = None,
    rope_scaling: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Any:
    """A model from a run, a checkpoint, a Hugging Face folder or a Hub id, as what its task is good for.

    Args:
        task: what the model is for; None: what its config.json says.
        context: resize the context to this many tokens.
        rope_scaling: how rotary positions stretch to a longer one, see `models.checkpoint.load_model`.
        device: auto, cpu, cuda or mps.
        precision: numbers that a model of text-generation computes with: float32, bfloat16; on a CPU also int8 and
            int4, which are refused where they make it worse, see `compression.prepare.prepared`. One whose answers
            are vectors may have bfloat16.

    Returns:
        A `LanguageModel` where the task is text-generation; elsewhere the `tasks.base.Predictor` of the task, with
        `.predict(text or texts)`: a `tasks.fill_mask.FillMask`, which also writes with `.generate(prompt, length=n)`.

    Raises:
        InputError: no model there, one that cannot be read, one for another task, or a tokenizer with more tokens than
            the model.
    """
    from melete.data.tokenizers import Tokenizer
    from melete.models.checkpoint import load_config, load_model, locate
    from melete.tasks import predictor_class, task_of
    from melete.training.precision import choose_device

    place = choose_device("cpu" if device == "auto" and precision in ("int8", "int4") else device)
    folder = locate(str(source))
    chosen = task_of(folder, task)
    tokenizer, known = Tokenizer.load(folder), load_config(folder).vocab_size
    if tokenizer.vocab_size > known:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model knows {known}",
            where=str(folder),
            do="put the tokenizer that the model was trained with into the folder",
        )
    resize: dict[str, Any] = {"max_position_embeddings": context, "rope_scaling": rope_scaling}
    if chosen != "text-generation":
        predictor = predictor_class(chosen).load(folder, place, **resize)
        if precision != "float32":
            _pack(predictor, precision)
        return predictor
    model = load_model(folder, **resize)
    if precision != "float32":
        from melete.compression.prepare import prepared

        if place.type != "cpu" and precision != "bfloat16":
            raise InputError(f"{precision} is for the CPU", do="use bfloat16, or --device cpu")
        model = prepared(model, folder, precision)
    return LanguageModel(model.to(place), tokenizer, folder, _end_ids(folder, model, tokenizer))


def _pack(predictor: Any, precision: str) -> None:
    """Make a predictor read in bfloat16.

    Raises:
        InputError: another precision, or a task whose answers are not vectors.
    """
    from melete.compression.packed import pack
    from melete.tasks import FEATURES

    if precision != "bfloat16" or predictor.task != FEATURES:
        expected = "bfloat16" if predictor.task == FEATURES else "float32"
        raise InputError(f"precision {precision} for {predictor.task}", expected=expected, do="leave it out")
    pack(predictor.model)


def _end_ids(folder: Path, model: Decoder, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that ends a text, by the model's config, its generation config and the tokenizer."""
    path = folder / "generation_config.json"
    try:
        named = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    except (ValueError, AttributeError):
        raise InputError("not a JSON object", where=str(path)) from None
    found: set[int] = set()
    for ids in (model.config.eos_token_id, named, tokenizer.eos_id):
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return tuple(sorted(found))
