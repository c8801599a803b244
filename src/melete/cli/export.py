"""`melete export`: a model for another program."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from melete.console import say
from melete.export import FORMATS, PRECISIONS

if TYPE_CHECKING:
    from melete.export.export import Export


@click.command()
@click.argument("model")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="hf: a Hugging Face folder. gguf: a file for llama.cpp (decoders). onnx: a folder for ONNX Runtime.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder (hf, onnx) or file (gguf) to make.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Number format of the weights. onnx has no bfloat16.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, kind: str, out: Path, precision: str, as_json: bool) -> None:
    """Write MODEL for another program: a run, a checkpoint, a Hugging Face folder or a Hub id.

    hf leaves out the state of training. gguf refuses a tokenizer that llama.cpp would not reproduce. onnx takes
    input_ids, attention_mask and (bert, electra) token_type_ids, for any number of texts of any length; it is opened
    once, and its answers are compared with the model's.

    \b
    Examples:
      melete export runs/demo --format gguf --out demo.gguf --precision float16
      melete export runs/demo --format hf --out demo-hf
      melete export runs/my-bert --format onnx --out my-bert-onnx
    """
    from melete.export.export import export_model

    made = export_model(model, kind, out, precision=precision)
    if as_json:
        import msgspec

        click.echo(json.dumps(msgspec.to_builtins(made)))
    apart = "" if made.difference is None else f"; its answers differ by at most {made.difference:.1e}"
    say(f"{out}: {made.bytes / 1e6:,.1f} MB, {precision}{apart}")
    say(f"next: {_opens_it(made)}")


def _opens_it(made: Export) -> str:
    """What to type to open it with the program it is for."""
    if made.format == "gguf":
        return f"llama-completion -m {shlex.quote(made.path)} -p 'Once upon a time' -n 50"
    if made.format == "onnx":
        file = json.dumps(str(Path(made.path) / "model.onnx"))
        code = f"import onnxruntime as o; print(*o.InferenceSession({file}).get_inputs())"
    else:
        folder = json.dumps(made.path)
        code = f"import transformers as t; print(t.{made.architecture}.from_pretrained({folder}))"
    return f"python -c {shlex.quote(code)}"
