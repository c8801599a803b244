"""How the verbs that read text are told to read it."""

from __future__ import annotations

import click

TEXT_COLUMN = click.option(
    "--text-column", help="The column of csv, tsv, jsonl and parquet files that holds the text."
)
MAX_LINE_BYTES = click.option(
    "--max-line-bytes",
    type=click.IntRange(min=1),
    default=16 << 20,
    show_default=True,
    help="The longest line read.",
)
