"""What jobs share on the way from `config.model` and a tokenizer to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melete.config import RunConfig
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models import is_spec, preset
from melete.models.base import Network
from melete.models.checkpoint import load_config, locate


def check_model(config: RunConfig) -> None:
    """Refuse what the model's config alone refuses.

    Raises:
        InputError: an unknown preset, a field that the family does not have or that the tokenizer decides, a
            training context beyond the model's.
    """
    section, context = config.model, config.training.context
    if is_spec(section.source):
        if "vocab_size" in section.config:
            raise InputError(
                "the tokenizer decides it", where="model.config.vocab_size", do="set tokenizer.vocab_size"
            )
        model = preset(section.source, **{"max_position_embeddings": context, **section.config})
    else:
        model = load_config(locate(section.source))
    if context > model.max_position_embeddings:
        raise InputError(
            f"training.context = {context} is longer than the model's",
            where=section.source,
            expected=f"at most {model.max_position_embeddings}",
        )


def expected_vocabulary(config: RunConfig) -> int:
    """Ids of the tokenizer that a run will have, before there is one."""
    given = config.tokenizer.source
    return Tokenizer.load(Path(given)).vocab_size if given else config.tokenizer.vocab_size


def tokenizer_of_model(config: RunConfig) -> Tokenizer | None:
    """The tokenizer that comes with a model that is trained on; None for one from scratch.

    Raises:
        InputError: another one was asked for.
    """
    if is_spec(config.model.source):
        return None
    folder = locate(config.model.source)
    own = Tokenizer.load(folder)
    asked = config.tokenizer.source
    if asked and Tokenizer.load(Path(asked)).fingerprint != own.fingerprint:
        raise InputError(
            f"not the tokenizer of {folder}",
            where=asked,
            do="leave tokenizer.source out: the model's own is used",
        )
    return own


def fields_of(tokenizer: Tokenizer, *roles: str) -> dict[str, Any]:
    """What a new model's config takes from its tokenizer: the vocabulary, and the ids of these roles."""
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in roles}
    return {"vocab_size": tokenizer.vocab_size, **ids}


def check_vocabulary(config: RunConfig, tokenizer: Tokenizer, model: Network) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for.

    Raises:
        InputError: there are such ids.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}",
            where=config.model.source,
            do="use the tokenizer that the model was trained with",
        )
