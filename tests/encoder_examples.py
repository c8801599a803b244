"""Ragged real sentences, English and Chinese, as examples for encoders."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from melete.data.batch import Example
from melete.data.corruption import Vocabulary
from melete.data.encoder_text import EncoderText, Samples
from melete.data.sampling import rng_for
from melete.data.tokenizers import Tokenizer

TEXTS = (
    "The lobster lives on the sea floor. It is blue in life, and red when cooked! Who would have thought so?",
    "我喜欢自然语言处理，也喜欢机器学习。你呢？今天的天气很好；我们去公园吧！",
    "A short one. Yes.",
    "北京是中国的首都。It has 3.14 wonders. 长城很长。",
    "Far away, behind the word mountains, there live the blind texts. Separated they live in a small village. "
    "A river flows by their place.",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 29


@cache
def vocabulary() -> tuple[Tokenizer, Vocabulary]:
    """A character tokenizer with BERT's special tokens."""
    import tokenizers as hf

    letters = sorted(set("".join(TEXTS)) - {" "})
    table = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    wordpiece = hf.Tokenizer(hf.models.WordLevel(table, unk_token="[UNK]"))
    wordpiece.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [hf.pre_tokenizers.WhitespaceSplit(), hf.pre_tokenizers.Split("", "isolated")]
    )
    wordpiece.add_special_tokens(SPECIAL)
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    tokenizer = Tokenizer(wordpiece.to_str(), names)
    return tokenizer, Vocabulary.of(tokenizer)


@cache
def examples(pair: str = "", count: int = 12) -> list[Example]:
    """The samples of all the texts."""
    samples = Samples(EncoderText.tokenise(TEXTS, vocabulary()[0]), LENGTH, pair)
    count = min(count, len(samples.runs))
    keys = [(0, 0, index) for index in range(count)]
    return [Example(key, samples.sample(key[2], rng_for((9, *key[1:])))) for key in keys]


def real_tokens(batch) -> list[list[int]]:
    """The ids of each document, in the order of `doc_starts`."""
    found = []
    for row, column in batch.doc_starts.tolist():
        here = batch.doc_ids[row] == batch.doc_ids[row, column]
        found.append(batch.input_ids[row][here].tolist())
    return found


def likeliest(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, bias: torch.Tensor, rng: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for `sampled_cross_entropy` where chance would hide what is compared: draws follow a batch's layout."""
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, labels, reduction="sum"), logits.argmax(-1)
