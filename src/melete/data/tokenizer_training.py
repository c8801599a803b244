"""How a tokenizer is learned from a corpus of any size in flat memory."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from melete.console import Progress, say
from melete.data.scripts import CJK
from melete.errors import InputError

SAMPLE = 64_000_000  # what a learner is given at most, in `_memory` units
END = "<|endoftext|>"

# A learner keeps every distinct pre-token and all its pairs in memory, and unspaced text (Chinese, base64, a line of
# dashes) makes pre-tokens as long as the text. Cutting such runs bounds both; prose is hardly ever touched.
_LONG_RUN = re.compile(rf"[{CJK}]{{16}}|\S{{128}}|\s{{128}}")
_CJK = re.compile(f"[{CJK}]")
_PIECE = 1 << 16
_UNBROKEN = re.compile(r"\S{33,}")
_LONGEST_TOKEN = 64  # bytes
# Line ends and CJK punctuation: no unigram crosses them.
_BREAK = "[\n\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]"


def train(
    texts: Iterable[str], kind: str, vocab_size: int, special_tokens: Sequence[str], lowercase: bool
) -> tuple[str, dict[str, Any]]:
    """The tokenizer.json text and tokenizer_config.json values of a newly trained tokenizer.

    Raises:
        InputError: unknown kind, no text, or a vocabulary too small for the kind.
    """
    if kind not in _LEARNERS:
        raise InputError(f"unknown kind of tokenizer {kind!r}", expected=", ".join(_LEARNERS))
    if lowercase and kind != "wordpiece":
        raise InputError("only a wordpiece tokenizer can be lower-cased", where="lowercase")
    if any(not token.strip() for token in special_tokens):
        raise InputError("an empty special token", where="special_tokens")
    special_tokens = list(dict.fromkeys(special_tokens))
    least = len({*_SPECIAL[kind], *special_tokens}) + (256 if kind == "byte-bpe" else 1)
    if vocab_size < least:
        what = f"{vocab_size} tokens cannot hold a {kind} vocabulary"
        raise InputError(what, where="vocab_size", expected=f"at least {least}")
    if kind in ("char", "word"):
        tokenizer, config = _LEARNERS[kind](texts, vocab_size, special_tokens)
    else:
        pieces, characters = sample(texts, SAMPLE, _memory_unigram if kind == "unigram" else _memory)
        if not pieces:
            raise InputError("no text to train a tokenizer on")
        say(f"training a {kind} tokenizer on {characters:,} characters")
        tokenizer, config = _LEARNERS[kind](pieces, vocab_size, special_tokens, lowercase)
    found = tokenizer.get_vocab_size()
    if found > vocab_size:
        raise InputError(
            f"{vocab_size} tokens cannot hold this text's characters and special tokens",
            where="vocab_size",
            expected=f"at least {found}",
        )
    if found < vocab_size and kind not in ("char", "word"):  # for these the size is only a limit
        say(f"the text yields only {found} tokens of the {vocab_size} asked for: the vocabulary is {found}")
    return _as_text(tokenizer, special_tokens), config | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }


def sample(texts: Iterable[str], most: int, weigh: Callable[[str], int] = len) -> tuple[list[str], int]:
    """Pieces spread evenly over the texts that weigh at most `most` (characters), and how many characters they are.

    Reads once, in flat memory, and depends on the texts alone: every `stride`-th piece is kept; when they become too
    many, every other one is dropped and the stride doubles.
    """
    kept: list[str] = []
    weights: list[int] = []
    weight, total, seen, stride = 0, 0, 0, 1
    with Progress("reading", "million characters") as progress:
        for piece in _pieces(texts):
            total += len(piece)
            progress.advance(len(piece) / 1e6)
            if seen % stride == 0:
                kept.append(piece)
                weights.append(weigh(piece))
                weight += weights[-1]
            seen += 1
            while weight > most and len(kept) > 1:
                kept, weights = kept[::2], weights[::2]
                weight = sum(weights)
                stride *= 2
    characters = sum(map(len, kept))
    if stride > 1:
        say(f"looking at {characters:,} of {total:,} characters: 1 piece in {stride}, evenly over the text")
    return kept, characters


def _memory(piece: str) -> int:
    """A piece by the memory of learning it: words of prose repeat, clauses of Chinese and lines of base64 do not."""
    unbroken = sum(map(len, _UNBROKEN.findall(piece)))
    return len(piece) + 3 * unbroken + 7 * (len(piece.encode()) - len(piece))


def _memory_unigram(piece: str) -> int:
    """The unigram learner starts from every substring that repeats."""
    return 10 * len(piece.encode())


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Texts, the long ones cut at line ends or spaces, so that none weighs much."""
    for text in texts:
        start = 0
        while start < len(text):
            stop = min(start + _PIECE, len(text))
            if stop < len(text):
                cut = max(text.rfind("\n", start, stop), text.rfind(" ", start, stop))
                stop = cut if cut > start else stop
            yield text[start:stop]
            start = stop


def _feed(pieces: Iterable[str]) -> Iterator[list[str]]:
    """What the learner reads: pieces without over-long runs."""
    for piece in pieces:
        cuts = [0, *(match.end() for match in _LONG_RUN.finditer(piece)), len(piece)]
        yield [piece[a:b] for a, b in pairwise(cuts) if a < b]


def _byte_bpe(
    pieces: list[str], vocab_size: int, extra: Sequence[str], lowercase: bool
) -> tuple[hf.Tokenizer, dict[str, Any]]:
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*_SPECIAL["byte-bpe"], *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_TOKEN,
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(_feed(pieces), trainer)
    return tokenizer, {f"{role}_token": END for role in ("bos", "eos", "pad", "unk")}


def _wordpiece(
    pieces: list[str], vocab_size: int, extra: Sequence[str], lowercase: bool
) -> tuple[hf.Tokenizer, dict[str, Any]]:
    special = _SPECIAL["wordpiece"]
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet, inside = _alphabet(pieces, tokenizer.normalizer, vocab_size - len(special) - len(extra))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # The learner numbers `##a` as it meets them, in a hash map's random order. Named here, they have their ids.
        special_tokens=[*special, *extra, *(token for token in inside if token not in extra)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(_feed(pieces), trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = values["added_tokens"][: len(special) + len(extra)]
    tokenizer = hf.Tokenizer.from_str(json.dumps(values))
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert cls is not None and sep is not None
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    return tokenizer, names | {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}


def _alphabet(
    pieces: list[str], normalizer: normalizers.Normalizer, room: int
) -> tuple[list[str], list[str]]:
    """The most frequent characters that fit, and what they are called inside a word: `a` and `##a`.

    CJK characters and punctuation stand alone, so that they are never inside.
    """
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(normalizer.normalize_str(piece))
    ranked = sorted((-count, character) for character, count in counts.items() if not character.isspace())
    characters = [character for _, character in ranked]
    joins = [
        not _CJK.match(c) and (c.isalnum() or (unicodedata.category(c)[0] in "MS" and not c.isascii()))
        for c in characters
    ]
    fit = bisect_right(list(accumulate(1 + joined for joined in joins)), room)
    return characters[:fit], [f"##{c}" for c, joined in zip(characters[:fit], joins, strict=False) if joined]


def _unigram(
    pieces: list[str], vocab_size: int, extra: Sequence[str], lowercase: bool
) -> tuple[hf.Tokenizer, dict[str, Any]]:
    special = _SPECIAL["unigram"]
    tokenizer = hf.Tokenizer(models.Unigram())
    # Nothing is normalised and no space is added in front, so that a text comes back exactly.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(hf.Regex(_BREAK), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *extra],
        unk_token="<unk>",
        show_progress=sys.stderr.isatty(),
    )
    try:
        tokenizer.train_from_iterator(_feed(pieces), trainer)
    except Exception as error:  # a bare Exception of the library
        raise InputError(f"unigram training failed: {error}", do="ask for a larger vocabulary") from None
    values = json.loads(tokenizer.to_str())
    first = len(special) + len(extra)
    values["model"]["vocab"][first:] = _in_order(values["model"]["vocab"][first:])
    tokenizer = hf.Tokenizer.from_str(json.dumps(values))
    end = tokenizer.token_to_id("</s>")
    assert end is not None
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _in_order(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Unigram pieces without what a hash map's random order left in them.

    Sums differ in the eleventh place, and so would the ids of equal scores. The characters that no piece covers come
    last, 0.0001 apart, in any order.
    """
    ranked = sorted(
        ((piece, round(score, 6)) for piece, score in pieces), key=lambda item: (-item[1], item[0])
    )
    tail = len(ranked) - 1
    while tail > 0 and len(ranked[tail - 1][0]) == 1 and ranked[tail - 1][1] - ranked[tail][1] < 1.5e-4:
        tail -= 1
    characters = sorted(piece for piece, _ in ranked[tail:])
    scores = [score for _, score in ranked[tail:]]
    return ranked[:tail] + list(zip(characters, scores, strict=True))


def _char(texts: Iterable[str], vocab_size: int, extra: Sequence[str]) -> tuple[hf.Tokenizer, dict[str, Any]]:
    counts = _count(texts, None)
    vocabulary = _vocabulary(counts, vocab_size, [*_SPECIAL["char"], *extra])
    # Merging nothing is one token a character, without a pre-tokenizer's cost for each of them.
    tokenizer = hf.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END, *extra])
    return tokenizer, {f"{role}_token": END for role in ("bos", "eos", "pad")}


def _word(texts: Iterable[str], vocab_size: int, extra: Sequence[str]) -> tuple[hf.Tokenizer, dict[str, Any]]:
    counts = _count(texts, _WORD)
    vocabulary = _vocabulary(counts, vocab_size, [*_SPECIAL["word"], *extra])
    tokenizer = hf.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(hf.Regex(_WORD.pattern), "removed", invert=True)
    # The WordPiece decoder sets a space between words; no word starts with its prefix, which is a space itself.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=" ", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(hf.Regex(" ?\n ?"), "\n"),
        ]
    )
    tokenizer.add_special_tokens([END, *(token for token in extra if token != "<unk>")])
    return tokenizer, {f"{role}_token": END for role in ("bos", "eos", "pad")}


_SPECIAL = {
    "byte-bpe": (END,),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "unigram": ("<pad>", "</s>", "<unk>"),
    "char": (END, "<unk>"),
    "word": (END, "<unk>"),
}
_WORD = re.compile(r"\n|\S+")
_LEARNERS = {
    "byte-bpe": _byte_bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "char": _char,
    "word": _word,
}


def _count(texts: Iterable[str], word: re.Pattern[str] | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    with Progress("counting", "million characters") as progress:
        for text in texts:
            counts.update(text if word is None else word.findall(text))
            progress.advance(len(text) / 1e6)
            if len(counts) > 20_000_000:  # about 2 GB: the rarest cannot enter the vocabulary any more
                counts = Counter({token: n for token, n in counts.items() if n > 1})
    if not counts:
        raise InputError("no text to train a tokenizer on")
    return counts


def _vocabulary(counts: Counter[str], vocab_size: int, special: Sequence[str]) -> dict[str, int]:
    """Special tokens, then what is most frequent; equal counts in the order of the characters."""
    special = list(dict.fromkeys(special))
    for token in special:
        counts.pop(token, None)
    room = vocab_size - len(special)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total, kept = counts.total(), sum(count for _, count in ranked[:room])
    if kept < total:
        say(
            f"{len(ranked) - room} of {len(ranked)} symbols ({1 - kept / total:.2%} of the text) become <unk>"
        )
    return {token: i for i, token in enumerate([*special, *(token for token, _ in ranked[:room])])}


def _as_text(tokenizer: hf.Tokenizer, symbols: Sequence[str]) -> str:
    """tokenizer.json, in which the declared symbols are kept whole but are part of the text when decoding."""
    values = json.loads(tokenizer.to_str())
    for token in values["added_tokens"]:
        if token["content"] in symbols:
            token["special"] = False
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
