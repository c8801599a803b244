"""Questions, their contexts and answers: SQuAD 1.1 and 2.0, CMRC 2018, and answers in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from melete.data.labelled.rows import QuestionRow, Span
from melete.data.streams import Reading, decode, display_name, open_bytes
from melete.errors import InputError


class _Answer(msgspec.Struct):
    text: str
    answer_start: int | None = None


class _Question(msgspec.Struct):
    question: str
    id: str | int = ""
    answers: list[_Answer] | None = None
    is_impossible: bool = False


class _Paragraph(msgspec.Struct):
    context: str
    qas: list[_Question]


class _Article(msgspec.Struct):
    paragraphs: list[_Paragraph]


class _Squad(msgspec.Struct):
    data: list[_Article]


def read_squad(name: str, reading: Reading) -> list[QuestionRow] | None:
    """The questions of a file in the form of SQuAD, which is read whole; None if it is a file of rows.

    Raises:
        InputError: broken JSON, or something in it is missing or of another type.
        StorageError: the machine refuses to read.
    """
    file = display_name(name)
    if not file.removesuffix(".gz").removesuffix(".xz").endswith(".json"):
        return None
    with open_bytes(name) as stream:
        text = decode(bytearray(stream.read()), name, 1, reading)
    try:
        whole = msgspec.json.decode(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, RecursionError) as error:
        if "trailing characters" in str(error):  # more than one object: JSON lines
            return None
        raise InputError(f"broken JSON ({error})", where=file, expected="SQuAD json, or JSON lines") from None
    if isinstance(whole, dict) and "data" not in whole:
        return None
    try:
        articles = msgspec.convert(whole, _Squad).data
    except msgspec.ValidationError as error:
        expected = '{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}, as SQuAD has it'
        raise InputError(f"not in the form of SQuAD ({error})", where=file, expected=expected) from None
    rows: list[QuestionRow] = []
    for paragraph in (paragraph for article in articles for paragraph in article.paragraphs):
        for asked in paragraph.qas:
            given = [] if asked.is_impossible else asked.answers
            answers = None if given is None else _aligned(given, paragraph.context)
            number = len(rows) + 1
            name_ = str(asked.id) or str(number)
            rows.append(
                QuestionRow(asked.question, paragraph.context, answers, name_, file=file, line=number)
            )
    return rows


def spans(given: Any, start: Any, context: str, where: str) -> tuple[Span, ...]:
    """The answers in any of the forms that rows have them in; no answer is an empty text, an empty list or null.

    Args:
        given: a text, a list of `{"text", "answer_start"}`, or `{"text": [...], "answer_start": [...]}`.
        start: where a text begins in the context, if a column says so.
        where: the place, for messages.

    Raises:
        InputError: none of these.
    """
    if isinstance(given, dict):
        texts, starts = given.get("text", []), given.get("answer_start", [])
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            given = [{"text": text, "answer_start": at} for text, at in zip(texts, starts, strict=True)]
    elif given is None or isinstance(given, str):
        given = [{"text": given, "answer_start": start}] if given else []
    try:
        return _aligned(msgspec.convert(given, list[_Answer], strict=False), context)
    except msgspec.ValidationError as error:
        expected = 'a text, or a list of {"text": ..., "answer_start": ...}'
        raise InputError(f"answers that cannot be read ({error})", where=where, expected=expected) from None


def _aligned(answers: Sequence[_Answer], context: str) -> tuple[Span, ...]:
    return tuple(align(context, answer.text, answer.answer_start) for answer in answers if answer.text)


def align(context: str, text: str, given: int | None) -> Span:
    """An answer with the place where it really stands in its context, nearest to the place that was given."""
    if given is not None and given >= 0 and context.startswith(text, given):
        return Span(text, given, given)
    near = max(given or 0, 0)
    after, before = context.find(text, near), context.rfind(text, 0, near + len(text))
    found = [at for at in (before, after) if at >= 0]
    return Span(text, min(found, key=lambda at: abs(at - near)) if found else None, given)
