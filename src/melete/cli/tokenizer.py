"""`melete tokenizer`: train one, or look at one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli import _hints as hints
from melete.cli._reading import MAX_LINE_BYTES, TEXT_COLUMN
from melete.console import say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.tokenizer_quality import Part, Quality

_SUBWORDS = 8192
_SYMBOLS = 1 << 16


@click.group()
def command() -> None:
    """Train a tokenizer on your text, or see how well one suits it.

    \b
    Examples:
      melete tokenizer train my.txt --vocab-size 8192 --out my-tokenizer
      melete tokenizer inspect my-tokenizer --data my.txt
    """


@command.command()
@click.argument("data", nargs=-1, required=True)
@click.option(
    "--kind",
    type=click.Choice(["byte-bpe", "wordpiece", "unigram", "char", "word"]),
    default="byte-bpe",
    show_default=True,
    help="byte-bpe for GPT models, wordpiece for BERT, unigram for T5; char and word for small studies.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    help=f"Tokens, special ones included. Default: {_SUBWORDS}; for char and word all there are, up to {_SYMBOLS}.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--special-token", "special", multiple=True, help="Text that stays one token; may be repeated.")
@click.option("--lowercase", is_flag=True, help="Lower the case and strip accents (wordpiece only).")
@TEXT_COLUMN
@MAX_LINE_BYTES
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train(
    data: tuple[str, ...],
    kind: str,
    vocab_size: int | None,
    out: Path,
    special: tuple[str, ...],
    lowercase: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Train a tokenizer on DATA: files, folders, named sets, or - for standard input.

    OUT gets tokenizer.json and tokenizer_config.json, which AutoTokenizer opens. Training reads the text once, in flat
    memory; above 64 million characters it learns from an even sample, and says so.

    \b
    Examples:
      melete tokenizer train my.txt --vocab-size 8192 --out my-tokenizer
      melete tokenizer train tang_poems --kind wordpiece --vocab-size 6000 --out zh
      melete tokenizer train wikitext-2 --kind word --out words
    """
    if (out / "tokenizer.json").exists():
        raise InputError(
            "there is a tokenizer already", where=str(out), do="choose another --out, or delete it"
        )

    from melete.data.datasets import resolve
    from melete.data.tokenizers import Tokenizer
    from melete.data.writing import check_writable

    check_writable(out)
    named = resolve(list(data), **reading)
    size = vocab_size or (_SYMBOLS if kind in ("char", "word") else _SUBWORDS)
    texts = (document.text for document in named.train)
    symbols = tuple(dict.fromkeys((*named.special_tokens, *special)))
    tokenizer = Tokenizer.train(texts, kind, size, symbols, lowercase=lowercase)
    tokenizer.save(out)
    if as_json:
        figures = {"folder": str(out), "kind": kind, "vocab_size": tokenizer.vocab_size}
        click.echo(json.dumps({**figures, "fingerprint": tokenizer.fingerprint}))
    say(f"{out}: {kind}, {tokenizer.vocab_size:,} tokens")
    say(f"next: {hints.tokenizer_inspect(str(out), data, **reading)}")


@command.command()
@click.argument("folder")
@click.option("--data", multiple=True, required=True, help="The text to try it on; may be repeated.")
@TEXT_COLUMN
@MAX_LINE_BYTES
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(folder: str, data: tuple[str, ...], as_json: bool, **reading: Any) -> None:
    """See how well the tokenizer in FOLDER suits a text.

    Characters and bytes per token (more is shorter sequences), unknown tokens, how much of the text comes back exactly,
    and how much of the vocabulary the text uses; by script, because a tokenizer of one language may be poor at another.

    \b
    Examples:
      melete tokenizer inspect my-tokenizer --data my.txt
      melete tokenizer inspect runs/demo/final --data tang_poems --json
    """
    from melete.data.datasets import resolve
    from melete.data.tokenizer_quality import inspect as measure
    from melete.data.tokenizers import Tokenizer

    tokenizer = Tokenizer.load(folder)
    named = resolve(list(data), **reading)
    quality = measure(tokenizer, (document.text for document in named.train))
    if as_json:
        click.echo(json.dumps({"tokenizer": folder, **quality.plain()}, ensure_ascii=False))
    else:
        click.echo(_report(quality))
    say(f"next: {hints.pretrain(data, tokenizer=folder, **reading)}")


def _report(quality: Quality) -> str:
    from melete.cli._table import table

    head = ["", "characters", "tokens", "characters/token", "bytes/token", "unknown", "comes back exactly"]
    rows = [_row(name, part) for name, part in sorted(quality.parts.items())]
    if len(rows) != 1:
        rows.append(_row("all", quality.whole))
    lines = [table([head, *rows]), ""]
    if quality.dropped:
        lines.append(
            f"not kept, so that a text with any of it does not come back: {', '.join(quality.dropped)}"
        )
    lines.append(f"vocabulary: {quality.used:,} of {quality.vocab_size:,} tokens used")
    lines.append("longest tokens: " + "  ".join(map(_visible, quality.longest)))
    lines += [
        f"{name}: {'|'.join(map(_visible, pieces))}" for name, pieces in sorted(quality.samples.items())
    ]
    return "\n".join(lines)


def _row(name: str, part: Part) -> list[str]:
    figures: dict[str, Any] = part.plain()
    return [
        name,
        f"{part.characters:,}",
        f"{part.tokens:,}",
        f"{figures['characters_per_token']:.2f}",
        f"{figures['bytes_per_token']:.2f}",
        f"{figures['unknown_rate']:.2%}",
        f"{figures['lossless']:.1%}",
    ]


def _visible(token: str) -> str:
    return repr(token)[1:-1]
