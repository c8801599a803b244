"""Where a tokenizer lies on disk: Hugging Face folders, new and old, in; one layout out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from melete.errors import InputError, StorageError


def read_folder(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of tokenizer.json and the values of tokenizer_config.json, converted from old files where need be.

    Raises:
        InputError: no tokenizer there, or one that cannot be read.
    """
    if not path.exists():
        raise InputError(
            "no such file or folder", where=str(path), expected="a tokenizer folder or tokenizer.json"
        )
    if not (path / "tokenizer.json").exists() and (path / "tokenizer" / "tokenizer.json").is_file():  # a run
        path = path / "tokenizer"
    folder, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
    definition = _text(file) if file.is_file() else None
    config = _config(folder)
    if definition is not None:
        if not isinstance(_json(definition, file), dict):
            raise InputError(
                "not a tokenizer", where=str(file), expected="the format of the `tokenizers` library"
            )
        return definition, config
    return _convert(folder, config)


def write_folder(folder: Path, definition: str, config: dict[str, Any]) -> None:
    """Both files, each by rename.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("tokenizer.json", definition),
            ("tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n"),
        ):
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write the tokenizer: {error.strerror}", where=str(folder)) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not valid UTF-8 at byte {error.start}", where=str(path)) from None


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"broken JSON: {error.msg}",
            where=f"{path}:{error.lineno}",
            expected="a tokenizer folder or tokenizer.json",
        ) from None


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            values = _json(_text(path), path)
            if not isinstance(values, dict):
                raise InputError("not a JSON object", where=str(path))
            config.update(values)
    template = folder / "chat_template.jinja"
    if template.is_file():
        config.setdefault("chat_template", _text(template))
    return config


def _convert(folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return _gpt2(folder / vocabulary, folder / merges, config)
    if (folder / "vocab.txt").is_file():
        return _bert(folder / "vocab.txt", config)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise InputError(
        f"no tokenizer in this folder (it holds {found})",
        where=str(folder),
        expected="tokenizer.json, vocab.json with merges.txt, or vocab.txt",
        do="save it as tokenizer.json first, or train one: melete tokenizer train",
    )


def _gpt2(vocabulary: Path, merges: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    family = str(config.get("tokenizer_class", "GPT2Tokenizer"))
    if not family.startswith(("GPT2", "PreTrained")):
        raise InputError(
            f"{family} splits text in a way that {vocabulary.name} does not tell",
            where=str(vocabulary.parent),
            do="save it as tokenizer.json with the library that it comes from",
        )
    try:
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # a bare Exception of the library
        raise InputError(f"not a GPT-2 vocabulary: {error}", where=str(vocabulary)) from None
    tokenizer = hf.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space", False))
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return _finish(tokenizer, names | config)


def _bert(vocabulary: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    config = names | config
    lines = _text(vocabulary).split("\n")
    ids = {token.rstrip("\r"): i for i, token in enumerate(lines) if token or i < len(lines) - 1}
    missing = [
        config[name] for name in ("unk_token", "cls_token", "sep_token") if str(config[name]) not in ids
    ]
    if missing:
        raise InputError(
            f"{missing[0]} is not in the vocabulary", where=str(vocabulary), expected="a BERT vocabulary"
        )
    tokenizer = hf.Tokenizer(models.WordPiece(ids, unk_token=str(config["unk_token"])))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = str(config["cls_token"]), str(config["sep_token"])
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    return _finish(tokenizer, config)


def _finish(tokenizer: hf.Tokenizer, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    names = [value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)]
    tokenizer.add_special_tokens(
        [name for name in dict.fromkeys(names) if tokenizer.token_to_id(name) is not None]
    )
    return tokenizer.to_str(), config | {"tokenizer_class": "PreTrainedTokenizerFast"}
