"""A text in, another text out: its translation, its summary, or whatever the model has learnt to write.

An encoder-decoder reads the source with its encoder. A decoder alone reads `source <end>` and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from melete.data.batch import Batch
from melete.data.labelled.rows import SUMMARIZATION, TEXT_TO_TEXT, TRANSLATION
from melete.data.readers import Row
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.generation.beam import beam_search
from melete.generation.settings import GenerationSettings
from melete.models import family
from melete.models.base import EncoderDecoder
from melete.models.checkpoint import load_network, named_head
from melete.models.purpose import generation_of, read_purpose
from melete.objectives.seq2seq import end_of
from melete.tasks.base import BUDGET, Answer, Piece, text_of
from melete.tasks.labelled import SourcePredictor
from melete.tasks.tidying import tidied

# What a source may be that is longer than the model reads.
LONG = ("stop", "cut", "split")
_MOST = 256  # tokens of an answer, where nobody says
_USUAL_DIVERSITY = 0.5  # of beams in groups: without one they would all say the same


@dataclass(frozen=True, eq=False)
class TextToText(SourcePredictor):
    """Writes a text for a text.

    An answer is `{"text", "score"}`, the score being that of `GenerationSettings`; with `n_best` above 1 also
    `{"others": [{"text", "score"}, ...]}`, the best first. An empty text is answered by an empty one. A text that was
    answered in `"parts"` says how many: their answers are joined, their score is the mean.

    Attributes:
        beams: answers that grow side by side; 1 takes the likeliest token each time.
        length_penalty, no_repeat_ngram_size, coverage_penalty: see `GenerationSettings`.
        max_new_tokens: most tokens of an answer.
        n_best: how many answers to a text are given.
        long: what happens to a source that is longer than the model reads: "stop" refuses it, "cut" leaves its end
            out, "split" answers it in parts of whole sentences.
        beam_groups, diversity_penalty: see `GenerationSettings.num_beam_groups`; a penalty of 0 is the usual one.
        required: phrases that every answer contains.
        tidy: what is mended in answers, see `tidying.WAYS`.
        language: of what is written, where the folder says so.
        forbidden: tokens that never come, as the folder says.

    Raises:
        InputError: an impossible setting.
    """

    settings: ClassVar[tuple[str, ...]] = (
        "beams",
        "length_penalty",
        "max_new_tokens",
        "no_repeat_ngram_size",
        "coverage_penalty",
        "n_best",
        "long",
        "beam_groups",
        "diversity_penalty",
        "required",
        "tidy",
    )
    reads: ClassVar[str] = TEXT_TO_TEXT

    beams: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int = _MOST
    no_repeat_ngram_size: int = 0
    coverage_penalty: float = 0.0
    n_best: int = 1
    long: str = "stop"
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    required: str | Sequence[str] = ()
    tidy: str | Sequence[str] = ()
    language: str = ""
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.long not in LONG:
            raise InputError(f"long is {self.long!r}", expected=f"one of {', '.join(LONG)}")
        if self.coverage_penalty and not isinstance(self.model, EncoderDecoder):
            raise InputError("coverage_penalty is for models that read a source", expected="0 (off)")
        self._decoding()
        self._tidied("")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """See `Predictor.load`; how it writes is what generation_config.json says."""
        heads = family(named_head(folder)[0]).HEADS
        head = TEXT_TO_TEXT if TEXT_TO_TEXT in heads else "text-generation"
        model = load_network(folder, task=head, complete=True, **resize).to(device)
        said, purpose = generation_of(folder), read_purpose(folder)
        names = {"beams": "num_beams"} | {name: name for name in cls.settings[1:5]}
        own = {ours: said[theirs] for ours, theirs in names.items() if said.get(theirs) is not None}
        language, forbidden = purpose.language if purpose else "", _forbidden(said)
        return cls(model, Tokenizer.load(folder), folder, language=language, forbidden=forbidden, **own)

    @cached_property
    def most_source(self) -> int:
        """Tokens of the longest source, what begins and ends it not counted."""
        most = self.model.config.max_position_embeddings - 1 - len(self.begin)
        return most if isinstance(self.model, EncoderDecoder) else max(most - self.most_answer, 1)

    @cached_property
    def most_answer(self) -> int:
        """Tokens of the longest answer, its end counted."""
        context = self.model.config.max_position_embeddings
        return min(
            self.max_new_tokens, context - 1 if isinstance(self.model, EncoderDecoder) else context // 2
        )

    @cached_property
    def begin(self) -> list[int]:
        """What stands before a source that an encoder reads: what the tokenizer itself puts there (`<s>`, `[CLS]`)."""
        if not isinstance(self.model, EncoderDecoder):
            return []
        ids, _, owners = self.tokenizer.frame(1)
        return ids[: next((i for i, owner in enumerate(owners) if owner is not None), 0)]

    @cached_property
    def end(self) -> int:
        """The token that ends a text."""
        return end_of(self.model)

    def cut(self, row: Row) -> list[Piece]:
        """The source, its end behind it; in parts where it is too long; see `Predictor.cut`."""
        text = text_of(row, "text")
        ids = self.tokenizer.encode(text)
        if not text.strip() or not ids:
            return []
        most = self.most_source
        parts = [ids]
        if len(ids) > most and self.long == "stop":
            raise InputError(
                f"a text of {len(ids):,} tokens, and the model reads {most:,}",
                where=f"{row.file}:{row.line}",
                do="leave its end out (--long cut), or answer it in parts (--long split)",
            )
        if len(ids) > most:
            parts = [ids[:most]] if self.long == "cut" else self._parts(text)
        return [Piece(np.array([*self.begin, *part, self.end], dtype=np.int64), None) for part in parts]

    def _parts(self, text: str) -> list[list[int]]:
        """Whole sentences, as many as fit; a sentence that does not is cut wherever it must be."""
        parts: list[list[int]] = []
        begun, most = 0, self.most_source
        for start, stop in split_sentences(text):
            together = self.tokenizer.encode(text[begun:stop])
            if parts and len(together) <= most:
                parts[-1] = together
            else:
                begun, alone = start, self.tokenizer.encode(text[start:stop])
                parts += [alone[at : at + most] for at in range(0, len(alone), most)]
        return parts

    def stream(
        self,
        rows: Iterable[Row],
        *,
        budget: int | None = None,
        advance: Callable[[float], None] | None = None,
    ) -> Iterator[Answer]:
        """See `Predictor.stream`; each beam counts as a text of its own."""
        return super().stream(rows, budget=max((budget or BUDGET) // self.beams, 1), advance=advance)

    def run(self, batch: Batch, pieces: Sequence[Piece]) -> list[Any]:
        """The best answers to each source, with their scores; see `Predictor.run`."""
        sources = [piece.ids.tolist() for piece in pieces]
        if isinstance(self.model, EncoderDecoder):
            prompts = [[self.model.config.decoder_start_token_id]] * len(sources)
            found = beam_search(self.model, prompts, self._decoding(), sources=sources)
        else:
            found = beam_search(self.model, sources, self._decoding())  # pyright: ignore[reportArgumentType]
        return [[(answer.tokens, answer.score) for answer in best] for best in found]

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        if not pieces:
            return {"text": "", "score": 0.0}
        ranked = []
        for answers in zip(*outputs, strict=True):
            texts = [self.tokenizer.decode(tokens).strip() for tokens, _ in answers]
            score = sum(score for _, score in answers) / len(answers)
            ranked.append({"text": self._tidied(self._joint.join(texts)), "score": score})
        best, *others = ranked
        parts = {"parts": len(pieces)} if len(pieces) > 1 else {}
        return best | parts | ({"others": others} if self.n_best > 1 else {})

    def _tidied(self, text: str) -> str:
        return tidied(text, (self.tidy,) if isinstance(self.tidy, str) else self.tidy, self.language)

    @property
    def _joint(self) -> str:
        """What stands between the answers to the parts of a text."""
        return "" if self.language in ("zh", "ja") else " "

    def in_words(self, answer: Answer) -> str:
        """The text; others below it; see `Predictor.in_words`."""
        others = answer.get("others", [])
        if not others:
            return answer["text"]
        return "\n".join(f"{one['score']:9.4f}  {one['text']}" for one in (answer, *others))

    @cached_property
    def _required(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each phrase, as they stand within a text."""
        phrases = (self.required,) if isinstance(self.required, str) else self.required
        found = []
        for phrase in phrases:
            ids = self.tokenizer.encode(self._joint + phrase.strip()) if phrase.strip() else []
            if self.tokenizer.unk_id != self.end and self.tokenizer.unk_id in ids:
                raise InputError(f"{phrase!r} is required, and the tokenizer lacks some of its characters")
            found.append(tuple(ids))
        return tuple(found)

    def _decoding(self) -> GenerationSettings:
        config = self.model.config
        forced = getattr(config, "forced_bos_token_id", None)
        return GenerationSettings(
            temperature=0.0,
            max_new_tokens=self.most_answer,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            num_beams=self.beams,
            length_penalty=self.length_penalty,
            # One beam has none to be compared with.
            coverage_penalty=self.coverage_penalty if self.beams > 1 else 0.0,
            num_beam_groups=self.beam_groups,
            diversity_penalty=self.diversity_penalty or (_USUAL_DIVERSITY if self.beam_groups > 1 else 0.0),
            required_ids=self._required,
            # One beam is greedy: it ends with the first end.
            early_stopping=self.beams == 1,
            num_return_sequences=self.n_best,
            forced_ids=() if forced is None else (forced,),
            forced_eos=getattr(config, "forced_eos_token_id", None) is not None,
            forbidden_ids=self.forbidden,
            eos_ids=(self.end,),
        )


def _forbidden(said: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that generation_config.json says never come."""
    words = said.get("bad_words_ids") or ()
    return tuple(word[0] for word in words if isinstance(word, list) and len(word) == 1)


@dataclass(frozen=True, eq=False)
class Translation(TextToText):
    """A text in another language; see `TextToText`."""

    task: ClassVar[str] = TRANSLATION
    reads: ClassVar[str] = TRANSLATION


@dataclass(frozen=True, eq=False)
class Summarization(TextToText):
    """What a text says, shorter; see `TextToText`."""

    task: ClassVar[str] = SUMMARIZATION
    reads: ClassVar[str] = SUMMARIZATION


@dataclass(frozen=True, eq=False)
class AnyText(TextToText):
    """Any text for a text; see `TextToText`."""

    task: ClassVar[str] = TEXT_TO_TEXT
    reads: ClassVar[str] = TEXT_TO_TEXT
