"""Models in the formats of other programs: Hugging Face folders, GGUF for llama.cpp, ONNX."""

from __future__ import annotations

# format -> module; the module has PACKAGES, what `pip install 'melete[export]'` brings for it, and the functions
#   check(folder, family, task, precision)       raises InputError: the format cannot hold this model
#   write(model, folder, target, precision)      makes the target, a file or a folder; returns how far its answers
#                                                are from the model's, where it measures that
# `folder` is where the model was read from.
FORMATS: dict[str, str] = {
    "hf": "melete.export.hugging_face",
    "gguf": "melete.export.gguf_file",
    "onnx": "melete.export.onnx_graph",
}
PRECISIONS = ("float32", "float16", "bfloat16")
