"""`melete inspect`: a page about what a model makes of one text."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.console import Progress, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.evaluation.inspection import Inspection

_NEXT = {"masked": "predict {} --text '... [MASK] ...'", "next": "generate {} --prompt ..."}


@click.command()
@click.argument("model")
@click.option("--text", required=True, help="The text to look at.")
@click.option("--out", default="inspect.html", show_default=True, metavar="FILE", help="The page to write.")
@click.option("--lang", default="auto", show_default=True, help="Language the page opens in: auto, en or zh.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print what is known of each token as one JSON object.")
def command(model: str, text: str, out: str, lang: str, device: str, as_json: bool) -> None:
    """Show in one HTML file what MODEL makes of a text: a run, a checkpoint, a Hugging Face folder or a Hub id.

    A model that fills masks is asked about each token, hidden in turn; ELECTRA's discriminator, which tokens it takes
    for replaced; a model that continues texts, what it expected at each place. Attention maps are shown of all. A text
    of more tokens than a page of a few megabytes can show is cut, which is said.

    \b
    Examples:
      melete inspect runs/bert --text "The king lives in a castle."
      melete inspect runs/demo --text "def read(path):" --out read.html --lang en
    """
    from melete.evaluation.inspection import Subject, inspect
    from melete.evaluation.inspection_page import render_inspection
    from melete.evaluation.page import write_page
    from melete.models.checkpoint import locate
    from melete.training.precision import choose_device

    if not text.strip():
        raise InputError("--text is empty", expected="a text of a few words")
    subject = Subject.load(locate(model), choose_device(device))
    with Progress("asking", "tokens") as progress:
        found = inspect(subject, text, progress.advance)
    write_page(Path(out), render_inspection(found, model, lang))
    if as_json:
        click.echo(json.dumps(_figures(model, found), ensure_ascii=False).encode())
    if found.left_out:
        shown = sum(not token.special for token in found.tokens)
        say(f"the text is {shown + found.left_out:,} tokens long; the first {shown:,} are shown")
    say(f"wrote {out}: open it in a browser")
    after = _NEXT.get(found.kind, "inspect {} --text 'another text'")
    say(f"next: melete {after.format(shlex.quote(model))}")


def _figures(model: str, found: Inspection) -> dict[str, Any]:
    tokens = [
        {
            "token": token.text,
            "probability": token.probability,
            "guesses": [list(guess) for guess in token.guesses],
        }
        for token in found.tokens
        if not token.special
    ]
    after = [list(guess) for guess in found.after]
    return {
        "model": model,
        "kind": found.kind,
        "perplexity": found.perplexity,
        "tokens": tokens,
        "after": after,
    }
