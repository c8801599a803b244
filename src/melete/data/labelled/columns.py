"""Which column is the text, and which is the label: by name, else by what stands in it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from melete.data.labelled.rows import CLASSIFICATION, QUESTIONS, SIMILARITY, TAGGING, WRITTEN_TASKS
from melete.data.readers import Row
from melete.data.scripts import CJK
from melete.errors import InputError

# How many rows are looked at before the first is handed out.
PEEK = 1000

# Roles by task; those in the second part may be absent.
ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    CLASSIFICATION: (("text", "label"), ("text_pair", "labels")),
    SIMILARITY: (("text", "text_pair", "score"), ()),
    TAGGING: (("words", "tags"), ()),
    QUESTIONS: (("question", "context", "answers"), ("id", "answer_start")),
    **dict.fromkeys(WRITTEN_TASKS, (("source", "target"), ())),
}
ANSWERS = frozenset({"label", "labels", "score", "tags", "answers", "answer_start", "target"})

# Names of columns as people and the well-known sets write them, without case, spaces and signs; the first wins.
_NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        "text", "texta", "text1", "sentence", "sentence1", "content", "review", "reviewtext", "reviewbody", "body",
        "document", "comment", "tweet", "message", "utterance", "question", "query", "title", "headline", "abstract",
        "文本", "内容", "正文", "评论", "句子", "标题",
    ),
    "label": (
        "label", "class", "category", "target", "sentiment", "quality", "goldlabel", "intent", "topic", "emotion",
        "stars", "rating", "isduplicate", "polarity", "标签", "类别", "分类", "情感",
    ),
    "labels": ("labels", "classes", "categories", "topics", "genres", "tags"),
    "score": ("score", "similarity", "similarityscore", "relatedness", "relatednessscore", "label", "分数", "相似度"),
    "words": ("words", "tokens", "text"),
    "tags": ("tags", "nertags", "postags", "ner", "upos", "pos", "labels"),
    "question": ("question", "query", "问题"),
    "context": ("context", "passage", "paragraph", "document", "text", "上下文"),
    "answers": ("answers", "answer", "answertext", "答案"),
    "answer_start": ("answerstart", "start", "startposition"),
    "id": ("id", "qid", "questionid"),
    "source": (
        "source", "src", "input", "inputs", "inputtext", "document", "dialogue", "article", "text", "content", "abst",
        "abstract", "sentence1", "question", "prompt", "原文", "正文", "内容", "输入",
    ),
    "target": (
        "target", "tgt", "output", "outputs", "outputtext", "targettext", "summary", "highlights", "headline", "title",
        "translation", "sentence2", "answer", "completion", "reference", "label", "译文", "摘要", "标题", "输出",
    ),
}  # fmt: skip
# Columns that are called after languages: those of the well-known sets.
LANGUAGES = frozenset(
    "ar cs da de el en es et fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk ur vi zh".split()  # noqa: SIM905
)
_NUMBERED = re.compile(r"(.*?)_?[0-9]+")
_PAIRS = (
    ("sentence1", "sentence2"), ("text", "textpair"), ("texta", "textb"), ("text1", "text2"),
    ("premise", "hypothesis"), ("question1", "question2"), ("1string", "2string"), ("sentencea", "sentenceb"),
    ("question", "sentence"), ("question", "passage"), ("query", "title"), ("query", "passage"),
)  # fmt: skip
_KNOWN = {name for names in _NAMES.values() for name in names} | {name for pair in _PAIRS for name in pair}

_SHORT = 40  # characters of a column's name
_ENOUGH = 10  # records from which it can be told that something never comes again
# Spaces or Chinese characters from which a second column without a name may be a text of its own.
_TITLE = 1.5
_WORD_ENDS = re.compile(f"[\\s{CJK}]")


@dataclass(frozen=True)
class Columns:
    """Where the parts of a row stand.

    Attributes:
        names: column by role. Several yes-or-no columns make up the labels where `flags` names them instead, and
            several columns of alternatives the targets.
        flags: columns of 0 and 1, each the name of a label; or those of the targets (summary1, summary2, ...).
    """

    names: dict[str, str]
    flags: tuple[str, ...] = ()

    def in_words(self) -> str:
        """What was found, as a person is told it."""
        inputs_first = sorted(self.names.items(), key=lambda item: (item[0] in ANSWERS, item[0]))
        parts = [f"{role} is column {name!r}" for role, name in inputs_first]
        if self.flags:
            what = "targets" if "source" in self.names else "labels"
            parts.append(f"{what} are the columns {', '.join(map(repr, self.flags))}")
        return ", ".join(parts)


def has_header(records: Sequence[Sequence[str]], wanted: Collection[str]) -> bool:
    """Whether the first record of a table names its columns.

    It does if a person's column is in it, or if none of its fields comes again below and one is a usual name, or all
    are short, unlike each other and no numbers.

    Args:
        records: the first ones of the file.
        wanted: columns that a person named.
    """
    first, rest = records[0], records[1:]
    if any(name in first and not name.isdecimal() for name in wanted):
        return True
    if any(field in column for field, column in zip(first, zip(*rest, strict=False), strict=False)):
        return False
    if any(_plain(field) in _KNOWN for field in first):
        return True
    named = all(field and len(field) <= _SHORT and not is_number(field) for field in first)
    return named and len(rest) >= _ENOUGH and len(set(first)) == len(first)


def find_columns(
    task: str, rows: Sequence[Row], *, wanted: Mapping[str, str], named: bool, labelled: bool
) -> Columns:
    """Find the columns of a task in a table.

    Args:
        rows: the first ones, at least one.
        wanted: column by role, as a person named them.
        named: the columns have names; where they are numbers, two columns of texts may be a pair.
        labelled: the answers must be there; else they may be absent.

    Raises:
        InputError: a column that is not there; no way to tell which it is; a text column that holds numbers.
    """
    search = _Search(task, rows, dict(wanted), named, labelled)
    search.ask()
    if task in (CLASSIFICATION, SIMILARITY):
        search.texts()
        search.labels()
    if task in WRITTEN_TASKS:
        search.written()
    search.rest()
    for role in ("text", "text_pair"):
        name = search.found.get(role)
        if labelled and name is not None and all(is_number(value) for value in search.column(name)):
            what = f"column {name!r} holds numbers (the first is {search.column(name)[0]!r})"
            do = f"name the column of the texts with --column {role}=NAME ({search.listed()})"
            raise InputError(what, where=search.where, expected="texts", do=do)
    return Columns(search.found, search.flags)


class _Search:
    """The columns of one table while they are looked for."""

    def __init__(
        self, task: str, rows: Sequence[Row], wanted: dict[str, str], named: bool, labelled: bool
    ) -> None:
        self.task, self.rows, self.wanted, self.named, self.labelled = task, rows, wanted, named, labelled
        self.all = list(dict.fromkeys(name for row in rows for name in row.values))
        self.plain: dict[str, str] = {}
        for name in self.all:
            self.plain.setdefault(_plain(name), name)
        self.found: dict[str, str] = {}
        self.flags: tuple[str, ...] = ()
        self.where = f"{rows[0].file}:{rows[0].line}"

    def ask(self) -> None:
        """Take what a person named."""
        required, optional = ROLES[self.task]
        for role, name in self.wanted.items():
            if role not in (*required, *optional):
                roles = ", ".join((*required, *optional))
                raise InputError(f"{self.task} has no column for {role!r}", expected=f"one of {roles}")
            if name not in self.all and name.isdecimal() and 1 <= int(name) <= len(self.all):
                name = self.all[int(name) - 1]
            if name not in self.all:
                if role in ANSWERS and not self.labelled:
                    continue
                near = difflib.get_close_matches(name, self.all, 1)
                do = f"did you mean {near[0]!r}?" if near else ""
                raise InputError(f"no column {name!r}", where=self.where, expected=self.listed(), do=do)
            self.found[role] = name

    def texts(self) -> None:
        """The text or the two texts: by their names, else the columns that are most like texts."""
        for first, second in _PAIRS:
            one, other = self.plain.get(first), self.plain.get(second)
            if one and other and not {"text", "text_pair"} & set(self.found):
                self.found |= {"text": one, "text_pair": other}
        if self.task == CLASSIFICATION and "text" not in self.found and (name := self._by_name("text")):
            self.found["text"] = name
        need = [role for role in ("text", "text_pair") if role not in self.found]
        like = sorted(self._text_columns(), key=self._words, reverse=True)
        if self.task == CLASSIFICATION and "text_pair" in need:
            pair = not self.named and "text" in need and len(like) > 1 and self._pair(*like[:2])
            need = need if pair else [role for role in need if role == "text"]
        if len(like) < len(need):
            raise self.missing(need[len(like)])
        self.found |= zip(need, sorted(like[: len(need)], key=self.all.index), strict=True)

    def labels(self) -> None:
        """The label, the labels or the score: by name, else by what stands in the other columns."""
        roles = ("score",) if self.task == SIMILARITY else ("label", "labels")
        if set(roles) & set(self.found):
            return
        for role in roles:
            if (name := self._by_name(role)) is not None:
                self.found[role] = name
                return
        if not self.labelled:
            return
        left = [name for name in self.all if name not in self.found.values()]
        flags = tuple(name for name in left if set(map(str, self.column(name))) <= {"0", "1"})
        if self.task == CLASSIFICATION and self.named and len(flags) > 1:
            self.flags = flags
        elif (name := self._answer_column(left)) is not None:
            self.found[roles[0]] = name
        else:
            raise self.missing(roles[0])

    def written(self) -> None:
        """Source and target, where their names do not tell: two languages, or the only two columns of texts."""
        if "target" not in self.found:
            self.flags = self._numbered_targets()
        need = [role for role in ("source", "target") if role not in self.found]
        need = need[:1] if self.flags else need
        if all(self._by_name(role) for role in need):
            return
        texts = [name for name in self._text_columns() if name not in self.flags]
        texts = [name for name in texts if len(self.rows) == 1 or len(set(self.column(name))) > 1]
        languages = [name for name in texts if name.lower() in LANGUAGES]
        need = need[:1] if len(texts) == 1 and not self.labelled else need
        for names in (languages, texts):
            if len(names) == len(need):
                self.found |= zip(need, names, strict=True)
                return

    def _numbered_targets(self) -> tuple[str, ...]:
        """Columns of alternatives (summary1, summary2, ...)."""
        numbered = [(name, match[1]) for name in self.all if (match := _NUMBERED.fullmatch(name))]
        found = [name for name, base in numbered if _plain(base) in _NAMES["target"]]
        return tuple(found) if len(found) > 1 else ()

    def rest(self) -> None:
        """What can only be told by name."""
        required, optional = ROLES[self.task]
        for role in (*required, *optional):
            if role in self.found or role in ("text", "text_pair", "label", "labels", "score"):
                continue
            if role == "target" and self.flags:
                continue
            if (name := self._by_name(role)) is not None:
                self.found[role] = name
            elif role in required and (self.labelled or role not in ANSWERS):
                raise self.missing(role)

    def missing(self, role: str) -> InputError:
        """The error for a column that cannot be found."""
        return InputError(
            f"which column is the {role}? There are {self.listed()}",
            where=self.where,
            expected=f"one called {_NAMES.get(role, _NAMES['text'])[0]!r}, or the like",
            do=f"name it with --column {role}=NAME",
        )

    def listed(self) -> str:
        """The columns there are."""
        most = 12
        more = f" and {len(self.all) - most} more" if len(self.all) > most else ""
        return "columns " + ", ".join(self.all[:most]) + more

    def column(self, name: str) -> list[Any]:
        """The values of a column in the first rows."""
        return [row.values.get(name) for row in self.rows]

    def _by_name(self, role: str) -> str | None:
        free = {plain: name for plain, name in self.plain.items() if name not in self.found.values()}
        return next((free[known] for known in _NAMES[role] if known in free), None)

    def _text_columns(self) -> list[str]:
        """Columns of strings that are no numbers."""
        free = [name for name in self.all if name not in self.found.values()]
        return [
            name
            for name in free
            if all(isinstance(value, str) for value in self.column(name))
            and not all(is_number(value) or not value for value in self.column(name))
        ]

    def _words(self, name: str) -> float:
        """Words of a column, about, on average; of two columns without any, the longer one is more of a text."""
        values = self.column(name)
        return sum(len(_WORD_ENDS.findall(value)) + len(value) / 1000 for value in values) / len(values)

    def _pair(self, one: str, other: str) -> bool:
        """Whether the shorter of two columns of texts is as much a text as the longer one."""
        different = len(set(self.column(other))) > len(self.rows) / 3
        return different and self._words(other) > max(_TITLE, self._words(one) / 3)

    def _answer_column(self, left: list[str]) -> str | None:
        """The one other column; else that with decimals (a score), or with the fewest different values (a label)."""
        if len(left) == 1:
            return left[0]
        if self.task == SIMILARITY:
            left = [name for name in left if all(is_number(value) for value in self.column(name))]
            decimals = [name for name in left if any("." in str(value) for value in self.column(name))]
            return decimals[0] if len(decimals) == 1 else left[0] if len(left) == 1 else None
        kinds: dict[str, int] = {}
        for name in left:
            values = [str(value) for value in self.column(name) if value not in ("", None)]
            if len(values) > len(self.rows) / 2 and 1 < len(set(values)) <= max(2, len(values) / 2):
                kinds[name] = len(set(values))
        fewest = [name for name, count in kinds.items() if count == min(kinds.values())]
        return fewest[0] if len(fewest) == 1 else None


def is_number(value: Any) -> bool:
    """A finite number, or a string that reads as one."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
