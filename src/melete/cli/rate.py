"""`melete rate`: people choose between two outputs, side by side, without knowing whose they are."""

from __future__ import annotations

import getpass
import shlex
import shutil
import sys
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._table import table, width
from melete.console import say

if TYPE_CHECKING:
    from melete.evaluation.rating import Item, Pairing, Ratings

KEYS = "l left   r right   t tie   s skip   u undo   q quit"
_ARROWS = {"\x1b[D": "l", "\x1b[C": "r"}
_GAP = " | "


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--prompts", metavar="FILE", help="What was answered, a row each. Default: column prompt of A, if any."
)
@click.option("--text-column", help="The column that holds the outputs.")
@click.option(
    "--out", default="ratings.jsonl", show_default=True, metavar="FILE", help="Gets each rating at once."
)
@click.option(
    "--rater", metavar="NAME", help="Whose ratings these are. Default: the name you are logged in with."
)
@click.option("--summary", is_flag=True, help="Ask nothing; say what was rated so far.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def command(
    first: str, second: str, out: str, rater: str | None, summary: bool, as_json: bool, **options: Any
) -> None:
    """Choose between the outputs of A and B, row by row, without knowing whose is whose.

    A and B are files of outputs for the same prompts: lines of text, or rows with a column of texts. Sides are drawn
    anew for every row and rater; all raters are asked in one order. Keys: l (or the arrow) left, r right, t tie, s
    skip, u undo, q quit. Whoever calls the command again goes on. At the end: which is preferred, with a 95 %
    interval, and how far raters agree.

    \b
    Examples:
      melete rate old.txt new.txt --prompts prompts.txt
      melete rate old.jsonl new.jsonl --rater ann
      melete rate old.jsonl new.jsonl --summary --json
    """
    from melete.evaluation.rating import Ratings, pair

    pairing = pair(first, second, options["prompts"], options["text_column"])
    ratings = Ratings(Path(out), pairing.fingerprint)
    rater = rater or getpass.getuser()
    same = ["melete", "rate", first, second]
    for flag in ("prompts", "text_column"):
        same += [f"--{flag.replace('_', '-')}", options[flag]] if options[flag] else []
    same += ["--out", out]
    try:
        finished = summary or _ask_all(pairing, ratings, rater)
    except KeyboardInterrupt:
        _stopped(same, ratings, rater)
        raise
    if not finished:
        _stopped(same, ratings, rater)
        return
    figures = ratings.summary()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"files": [first, second], "equal": pairing.equal, **figures}))
    else:
        _show(first, second, pairing, figures)
    say(f"next: {shlex.join([*same, '--rater', 'ANOTHER'])}")


def _stopped(command: list[str], ratings: Ratings, rater: str) -> None:
    say(f"{len(ratings.of(rater)):,} rated by {rater} so far, all in {ratings.path}")
    say(f"next: {shlex.join([*command, '--rater', rater])}")


def _ask_all(pairing: Pairing, ratings: Ratings, rater: str) -> bool:
    """Ask until all is rated (True), or the rater leaves."""
    if pairing.equal:
        say(f"equal in both files, so not asked: {pairing.equal:,}")
    while True:
        said = ratings.of(rater)
        left = [item for item in pairing.items if item.number not in said]
        if not left:
            return True
        item, sides = left[0], ("first", "second")
        if not pairing.first_is_left(item, rater):
            sides = ("second", "first")
        say(_card(item, sides[0] == "first", f"{len(said) + 1:,} of {len(pairing.items):,}"))
        key = _key()
        if key == "q":
            return False
        if key == "u":
            if said:
                ratings.add(next(reversed(said)), rater, None, "")
            else:
                say("nothing to take back")
            continue
        choice = {"l": sides[0], "r": sides[1], "t": "tie", "s": "skip"}[key]
        ratings.add(item.number, rater, choice, sides[0])


def _key() -> str:
    """The next key that means something; q where there are no more."""
    while True:
        say(KEYS)
        try:
            typed = click.getchar() if sys.stdin.isatty() else sys.stdin.readline() or "q"
        except EOFError:
            return "q"
        key = _ARROWS.get(typed, typed.strip().lower())
        if key and key in "lrtsuq":
            return key


def _card(item: Item, first_is_left: bool, place: str) -> str:
    """A prompt, and both outputs beside each other."""
    left, right = item.outputs if first_is_left else item.outputs[::-1]
    columns = shutil.get_terminal_size().columns
    half = max((columns - len(_GAP)) // 2, 10)
    rows = zip_longest(wrapped(left, half), wrapped(right, half), fillvalue="")
    lines = [place, *wrapped(item.prompt, columns), "-" * columns] if item.prompt else [place, "-" * columns]
    lines += [(one + " " * (half - width(one)) + _GAP + other).rstrip() for one, other in rows]
    return "\n".join(["", *lines, "-" * columns])


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns, broken at a space, or anywhere in Chinese; a longer word is cut."""
    lines: list[str] = []
    for line in text.expandtabs().splitlines():
        while width(line) > columns:
            end = next(i for i in range(len(line), 0, -1) if width(line[:i]) <= columns)
            space = line.rfind(" ", 0, end + 1)
            cut = space if space > 0 and line[end - 1 : end + 1].isascii() else end
            lines.append(line[:cut].rstrip())
            line = line[cut:].lstrip()
        lines.append(line)
    return lines


def _show(first: str, second: str, pairing: Pairing, figures: dict[str, Any]) -> None:
    """What was chosen, how sure that is, and whether the raters agree."""
    chosen = [(first, "first"), (second, "second"), ("tie", "tie"), ("skipped", "skip")]
    click.echo(table([["", "chosen"], *([name, f"{figures[choice]:,}"] for name, choice in chosen)]))
    click.echo(f"equal in both files: {pairing.equal:,}")
    if not figures["rows"]:
        return
    low, high = figures["low"], figures["high"]
    better = second if low > 0.5 else first if high < 0.5 else ""
    verdict = f"{better} is better" if better else "these ratings do not tell which is better"
    click.echo(
        f"{second} is preferred in {figures['preference']:.1%} of {figures['rows']:,} rows, a tie counting half "
        f"(95 % interval {low:.1%} to {high:.1%}): {verdict}"
    )
    click.echo(f"the left side was chosen in {figures['left']:.1%} of the decisions")
    if figures["rated_twice"]:
        click.echo(
            f"{figures['rated_twice']:,} rows have several ratings, {figures['agreement']:.1%} of which agree "
            f"(Krippendorff's alpha {figures['alpha']:.2f}; 1 is perfect, 0 is chance)"
        )
