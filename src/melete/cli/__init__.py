"""The command line: one file a verb. A verb parses, calls one public function, prints.

Verbs are imported when they are called, so that `melete --help` needs neither torch nor any other heavy library.
"""

from __future__ import annotations

import importlib
import sys

import click

from melete.console import printable
from melete.errors import MeleteError, StorageError

# verb -> (what it does, group). `melete/cli/<verb>.py` holds a click command named `command`.
VERBS: dict[str, str] = {
    "demo": "Train a small model on this Python's own source, and see how good it is (4 minutes).",
    "pretrain": "Train a model from scratch on your text.",
    "finetune": "Train a model for a task on labelled rows, and score it beside a linear one.",
    "train": "Train from a recipe file, with key=value changes.",
    "resume": "Go on with a run that was stopped.",
    "generate": "Continue a prompt.",
    "predict": "What a model says of texts: fill in masks.",
    "inspect": "A page about what a model makes of one text, with its attention maps.",
    "embed": "Texts as vectors, and how near they are to each other.",
    "chat": "Keep a prompt open and talk to a model.",
    "evaluate": "Perplexity and bits per byte of a model on a text.",
    "compare": "Which of two models is better on the same labelled rows, and where they differ.",
    "rate": "Choose between the outputs of two models, side by side, without knowing whose is whose.",
    "export": "Write a model for another program: Hugging Face, llama.cpp (GGUF), ONNX.",
    "tokenizer": "Train a tokenizer, or look at one.",
    "data": "Prepare, inspect or list data.",
    "runs": "List and compare runs.",
    "report": "Write the page of a run again.",
    "bench": "How fast a model is on this machine, beside what the machine can do.",
    "doctor": "What this machine has, and what will be slow and why.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"melete.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="melete", prog_name="melete")
def melete() -> None:
    """Melete takes your text to a working Transformer, and proves how good it is.

    \b
    First time here:   melete demo
    Your own text:     melete pretrain qwen3 --data my.txt --minutes 10
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `melete` command: a person's mistake ends in one line and exit code 2 (1 for I/O)."""
    try:
        melete.main(args=arguments, prog_name="melete", standalone_mode=False)
    except MeleteError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as asked:  # `melete data`: its message is the help
        click.echo(asked.format_message())
    except click.ClickException as error:
        hint = getattr(error, "ctx", None)
        todo = f"; see `{hint.command_path} --help`" if hint is not None else ""
        _fail(" ".join(error.format_message().split()).removesuffix(".") + todo, 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", StorageError.exit_code)


def _fail(line: str, code: int) -> None:
    print(f"melete: error: {printable(line)}", file=sys.stderr, flush=True)
    sys.exit(code)
