"""What a model has read of a talk, so that the next line can be answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer


class Continuation:
    """The talk with a base model: one growing text, of which the newest tokens are kept."""

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        self._tokenizer, self._context = tokenizer, context
        self._ids: list[int] = []

    def ask(self, text: str) -> list[int]:
        """What to continue: the text so far and a new line of it. With an empty line, the text simply goes on."""
        ended = bool(self._ids) and self._ids[-1] not in self._tokenizer.special_ids
        self._ids += self._tokenizer.encode(f"\n{text}" if ended and text else text)
        self._ids = self._ids[-self._context :]
        return self._ids.copy()

    def answered(self, tokens: Sequence[int], text: str) -> None:
        """Take note of what the model said."""
        self._ids += tokens


class Dialogue:
    """The talk with a model that was trained on one, written as its chat template says.

    The oldest exchanges are forgotten once they leave no room.

    Args:
        template: the Jinja text of the model's chat template.
        room: tokens that must stay free for an answer.
    """

    def __init__(self, tokenizer: Tokenizer, context: int, template: str, room: int) -> None:
        self._tokenizer, self._most = tokenizer, context - min(room, context // 2)
        self._render = _compiled(template, tokenizer)
        self._messages: list[dict[str, str]] = []

    def ask(self, text: str) -> list[int]:
        """Token ids of the talk with a new line of the person's, up to where the answer begins."""
        messages = [*self._messages, {"role": "user", "content": text}]
        ids = self._ids(messages)
        while len(ids) > self._most and len(messages) > 1:
            messages = messages[2:]
            ids = self._ids(messages)
        self._messages = messages  # only now: a line that the template refuses was never said
        return ids

    def answered(self, tokens: Sequence[int], text: str) -> None:
        """Take note of what the model said."""
        self._messages.append({"role": "assistant", "content": text})

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self._tokenizer.encode(self._render(messages))


def chat_template(tokenizer: Tokenizer, folder: Path) -> str | None:
    """The chat template of a model folder; None for a base model."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    template = tokenizer.config.get("chat_template")
    return template if isinstance(template, str) else None


def _compiled(template: str, tokenizer: Tokenizer) -> Callable[[list[dict[str, str]]], str]:
    """A chat template as a function; it comes with a download, so it runs in a sandbox.

    Raises:
        InputError: the template is broken, here or when it meets a talk it was not written for.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise InputError(f"the chat template refuses: {reason}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    tokens = {
        f"{role}_token": tokenizer.token(id_)
        for role, id_ in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id))
        if id_ is not None
    }
    try:
        compiled = environment.from_string(template, globals=tokens)
    except TemplateError as error:
        raise InputError(f"a broken chat template: {error}") from None

    def render(messages: list[dict[str, str]]) -> str:
        try:
            return compiled.render(messages=messages, add_generation_prompt=True)
        except (TemplateError, TypeError) as error:
            raise InputError(f"a broken chat template: {error}") from None

    return render
