"""`melete chat`: a prompt that stays open."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from melete.cli._generation import (
    chosen,
    describe,
    generation_options,
    load_options,
    settings_of,
    show_any_character,
)
from melete.console import printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.api import LanguageModel
    from melete.generation.conversation import Continuation, Dialogue

HELP = """\
/reset            forget what was said
/temperature X    below 1 safer, above 1 wilder, 0 always the likeliest
/seed N           other answers
/help             this list
/quit             leave (so does Ctrl-D); Ctrl-C stops an answer
An empty line lets a base model go on."""


@click.command()
@click.argument("model")
@generation_options
def command(model: str, **options: Any) -> None:
    """Talk to MODEL: a run, a checkpoint, a Hugging Face folder or a Hub id.

    A base model continues what you type; a model that comes with a chat template answers. Ctrl-C stops an answer,
    Ctrl-D leaves, /help lists what else there is. What was said stays in the context until that is full; then the
    oldest part is forgotten.

    \b
    Examples:
      melete chat runs/demo
      melete chat runs/demo --temperature 0.5 --max-new-tokens 60
    """
    from melete.generation.settings import GenerationSettings

    settings_of(GenerationSettings, chosen(options))  # a mistyped setting should not wait for the model

    from melete.api import load

    loaded = load(model, task="text-generation", **load_options(options))
    say(describe(loaded.model))
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and history, where the platform has it)
    show_any_character()
    _Chat(loaded, chosen(options)).run()
    say(f"next: melete generate {shlex.quote(model)} --prompt TEXT")


class _Chat:
    """The loop at the prompt."""

    def __init__(self, loaded: LanguageModel, values: dict[str, Any]) -> None:
        from melete.generation.conversation import chat_template

        self._loaded, self._values = loaded, values
        self._template = chat_template(loaded.tokenizer, loaded.folder)
        self._values.setdefault("max_new_tokens", 128 if self._template is None else 1024)
        self._turn = 0
        self._talk = self._new_talk()
        if self._template is None:
            say(
                "This is a base model (it has no chat template): it continues your text, it does not answer you."
            )
        say("Ctrl-C stops an answer, Ctrl-D leaves, /help lists the rest.")

    def run(self) -> None:
        """Read lines until the person leaves."""
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt)
            except KeyboardInterrupt:
                say("\n(Ctrl-D leaves)")
                continue
            except EOFError:
                click.echo()
                return
            if line.strip() == "/quit":
                return
            try:
                if line.startswith("/"):
                    self._obey(line)
                else:
                    self._answer(line)
            except InputError as error:  # a slip at the prompt should not end the talk
                say(str(error))

    def _obey(self, line: str) -> None:
        name, _, value = line.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: say(HELP),
            "/reset": self._reset,
            "/seed": lambda text: self._set("seed", int, text),
            "/temperature": lambda text: self._set("temperature", float, text),
        }
        if name not in commands:
            raise InputError(f"there is no {name}", expected=f"{', '.join(commands)} or /quit")
        commands[name](value.strip())

    def _reset(self, _: str) -> None:
        self._talk, self._turn = self._new_talk(), 0
        say("(forgotten)")

    def _set(self, name: str, kind: type, text: str) -> None:
        from melete.generation.settings import GenerationSettings

        try:
            value = kind(text)
        except ValueError:
            raise InputError(f"/{name} {text}", expected=f"a number, as in /{name} 1") from None
        GenerationSettings.of({name: value})
        self._values[name] = value
        self._turn = 0

    def _new_talk(self) -> Continuation | Dialogue:
        from melete.generation.conversation import Continuation, Dialogue

        tokenizer, context = self._loaded.tokenizer, self._loaded.model.config.max_position_embeddings
        if self._template is None:
            return Continuation(tokenizer, context)
        return Dialogue(tokenizer, context, self._template, room=self._values["max_new_tokens"])

    def _answer(self, line: str) -> None:
        """Print the answer as it comes. Ctrl-C ends it; what was said until then counts."""
        from melete.generation.generate import encode_prompt, stream
        from melete.generation.settings import GenerationSettings

        values = {"eos_ids": self._loaded.eos_ids, **self._values, "truncate": True}
        # The same line twice should not get the same answer.
        values["seed"] = values.get("seed", 0) + self._turn
        settings = GenerationSettings.of(values)
        self._turn += 1
        ids = self._talk.ask(line) or encode_prompt(self._loaded.tokenizer, "")
        tokens: list[int] = []
        text = ""
        try:
            for piece in stream(self._loaded.model, [ids], settings, self._loaded.tokenizer):
                tokens.append(piece.token)
                text += piece.text
                click.echo(printable(piece.text), nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            click.echo(" (stopped)", nl=False)
        click.echo()
        self._talk.answered(tokens, text)
