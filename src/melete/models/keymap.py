"""Two tables a model: its tensors' names and its config's names, ours beside Hugging Face's, read in both directions.

Importing what was exported gives the same tensors and config back; whatever a table does not know is an error that
names it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from melete.console import say
from melete.errors import InputError
from melete.models.base import Head, ModelConfig
from melete.nn.positions import RopeParameters

AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


@dataclass(frozen=True)
class KeyTable:
    """Our tensor names beside Hugging Face's. `{}` stands for a layer's number.

    Attributes:
        pairs: (ours, theirs).
        transposed: ends of our names whose matrices lie the other way round on their side.
        rows: our names of vectors that are matrices of one row on their side.
        tied: (theirs, theirs): the first is the second where the model ties them; a file may hold both.
        optional_prefix: of their names outside the heads; may be missing from every one of them in a file.
        other_prefixes: what some of their classes have in its place.
        ignored: their names that carry nothing.
        heads: parts of our names (what stands before the first dot) that only some tasks use.
        renamed: (end of their names in old files, end of theirs now).
    """

    pairs: tuple[tuple[str, str], ...]
    transposed: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    optional_prefix: str = ""
    other_prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def our_names(self, theirs: str) -> list[str]:
        """What one of their tensors may be with us: heads of several tasks can share their name."""
        return _translate(theirs, ((b, a) for a, b in self.pairs))

    def their_name(self, ours: str, trunk: str = "") -> str:
        """Their name of one of our tensors; `trunk` as in `Head`."""
        (name,) = _translate(ours, self.pairs)
        if trunk and name.startswith(self.optional_prefix):
            return trunk + name.removeprefix(self.optional_prefix)
        return name

    def export_tensors(self, state: Mapping[str, Tensor], trunk: str = "") -> dict[str, Tensor]:
        """Our state dict under their names, each tensor contiguous; `trunk` as in `Head`."""
        return {
            self.their_name(name, trunk): self.turned(name, tensor).contiguous()
            for name, tensor in state.items()
        }

    def import_tensors(
        self,
        tensors: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        where: str,
        *,
        head: Head,
        whole: bool = True,
        anew: str = "",
    ) -> dict[str, Tensor]:
        """Their tensors under our names.

        Parts of heads that the file has and the model does not are left out, those that the model has and the file
        does not are missing from what is returned: a line is printed of either.

        Args:
            tensors: as they stand in the file.
            shapes: what our model expects, by our names.
            where: the file, for errors.
            head: what our model wears.
            whole: the file is of this very head, so that no part of it may be missing.
            anew: a part that is left out though it is there.

        Raises:
            InputError: tensors are left over or missing, a shape is not what the config says, or two tied tensors
                differ.
        """
        tensors = self._with_prefix({self._new_name(name): tensor for name, tensor in tensors.items()})
        state: dict[str, Tensor] = {}
        unknown: list[str] = []
        unused: set[str] = set()
        for theirs, tensor in tensors.items():
            names = self.our_names(theirs)
            ours = next((name for name in names if name in shapes), None)
            parts = {_part(name) for name in names}
            if ours is not None and _part(ours) == anew:
                unused.add(anew)
            elif ours is not None:
                state[ours] = self._checked(ours, theirs, tensor, shapes[ours], where)
            elif parts and parts <= set(self.heads) - set(head.parts):
                unused.add(_part(names[0]))
            elif not self._is_copy(theirs, tensors, where) and not _matches(theirs, self.ignored):
                unknown.append(theirs)
        if unknown:
            raise InputError(
                f"{len(unknown)} tensors this model does not have ({_some(unknown)})",
                where=where,
                expected="the tensors config.json describes",
            )
        expected = {_part(name) for name in shapes}.intersection(head.parts)
        new = {anew} & expected if whole else expected - {_part(name) for name in state}
        missing = [self.their_name(name) for name in shapes if name not in state and _part(name) not in new]
        if missing:
            raise InputError(f"{len(missing)} tensors are missing ({_some(missing)})", where=where)
        _announce(where, new, unused - {anew}, anew if anew in unused else "")
        return state

    def _new_name(self, theirs: str) -> str:
        for old, new in self.renamed:
            if theirs.endswith(old):
                return theirs.removesuffix(old) + new
        return theirs

    def _with_prefix(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        prefix = self.optional_prefix
        for other in self.other_prefixes:
            tensors = {
                prefix + name.removeprefix(other) if name.startswith(other) else name: tensor
                for name, tensor in tensors.items()
            }
        if not prefix or any(name.startswith(prefix) for name in tensors):
            return tensors
        heads = {first for first, _ in self.tied}
        return {name if name in heads else prefix + name: tensor for name, tensor in tensors.items()}

    def turned(self, ours: str, tensor: Tensor) -> Tensor:
        """A tensor as it lies on the other side."""
        if ours in self.rows:
            return tensor[None] if tensor.dim() == 1 else tensor[0]
        return tensor.t() if ours.endswith(self.transposed) and self.transposed else tensor

    def _checked(self, ours: str, theirs: str, tensor: Tensor, shape: torch.Size, where: str) -> Tensor:
        turned = self.turned(ours, tensor) if tensor.dim() == 2 else tensor
        if turned.shape != shape:
            expected = self.turned(ours, torch.empty(shape, device="meta")).shape
            raise InputError(
                f"{theirs} has shape {tuple(tensor.shape)}",
                where=where,
                expected=f"{tuple(expected)}, which is what config.json says",
            )
        return turned

    def _is_copy(self, theirs: str, tensors: Mapping[str, Tensor], where: str) -> bool:
        for copy, original in self.tied:
            if theirs == copy and original in tensors:
                if not torch.equal(tensors[copy], tensors[original]):
                    raise InputError(
                        f"{copy} differs from {original} though config.json ties them (tie_word_embeddings)",
                        where=where,
                    )
                return True
        return False


@dataclass(frozen=True)
class ConfigTable:
    """Our config fields beside the keys of Hugging Face's `config.json`.

    Every key of a file must be known here: read, checked to be the value our arithmetic has, or known to change
    nothing. Otherwise a model that computes something else could load without a word.

    Attributes:
        model_type: what the file calls the family.
        names: (ours, theirs); where one of ours stands for several of theirs, they must be equal.
        defaults: what their class takes for a key that is missing; a key without one must be there.
        fixed: their keys whose value our arithmetic fixes: the values accepted, the first of them written.
        extras: our fields they have no word for; written under our name, and only when not zero.
        ignored: their keys that do not change what the model computes.
        older: rewrites the keys of older versions into those of today, in place.
    """

    model_type: str
    names: tuple[tuple[str, str], ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    older: Callable[[dict[str, Any]], None] | None = None

    def export_config(self, config: ModelConfig) -> dict[str, Any]:
        """The family's part of `config.json`."""
        ours = msgspec.to_builtins(config)
        values: dict[str, Any] = {"model_type": self.model_type}
        values |= {theirs: ours[name] for name, theirs in self.names}
        values |= {theirs: accepted[0] for theirs, accepted in self.fixed.items()}
        values |= {name: ours[name] for name in self.extras if ours[name]}
        if config.id2label:
            values["id2label"] = {str(i): name for i, name in enumerate(config.id2label)}
            values["label2id"] = {name: i for i, name in enumerate(config.id2label)}
        if config.problem_type is not None:
            values["problem_type"] = config.problem_type
        if isinstance(rope := getattr(config, "rope_parameters", None), RopeParameters):
            values |= _export_rope(rope)
        elif isinstance(rope, msgspec.Struct):  # of each kind of layer
            values["rope_parameters"] = {
                kind: _rope_values(getattr(rope, kind)) for kind in rope.__struct_fields__
            }
        return values

    def import_config(self, kind: type[AnyConfig], values: Mapping[str, Any], where: str) -> AnyConfig:
        """Our config from the keys of a `config.json`.

        Raises:
            InputError: a key is missing, unknown, of the wrong type, or asks for arithmetic that is not ours.
        """
        values = dict(values)
        if self.older is not None:
            self.older(values)
        if "rope_parameters" in dict(self.names):
            values["rope_parameters"] = _import_rope(values, where)
        for key, accepted in self.fixed.items():
            found = values.pop(key, accepted[0])
            for item in found if isinstance(found, list) else [found]:
                if item not in accepted:
                    shown = " or ".join(map(str, accepted))
                    raise InputError(f"{key} is {item}, which is not supported", where=where, expected=shown)
        ours: dict[str, Any] = {}
        for name, theirs in self.names:
            if theirs not in values and theirs not in self.defaults:
                raise InputError(
                    f"no {theirs}", where=where, expected=f"a config of a {self.model_type} model"
                )
            value = values.pop(theirs, self.defaults.get(theirs))
            if ours.setdefault(name, value) != value and value is not None:
                raise InputError(
                    f"{theirs} is {value}, which is not supported",
                    where=where,
                    expected=f"{ours[name]}, as elsewhere",
                )
        ours |= {name: values.pop(name) for name in self.extras if name in values}
        ours |= {"id2label": _import_labels(values, where), "problem_type": values.pop("problem_type", None)}
        if unknown := sorted(values.keys() - self.ignored - _IGNORED):
            raise InputError(
                f"unknown keys {_some(unknown)}",
                where=where,
                expected=f"the keys of a {self.model_type} model",
                do="remove them if they do not change what the model computes",
            )
        return make_config(kind, ours, where)


def make_config(kind: type[AnyConfig], values: Mapping[str, Any], where: str = "") -> AnyConfig:
    """A config from plain values.

    Raises:
        InputError: an unknown key (the nearest is named), a missing one, or a wrong type.
    """
    import difflib

    names = kind.__struct_fields__
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            hint = f"`{near[0]}`" if near else ", ".join(names)
            raise InputError(f"unknown key `{key}`", where=where, expected=hint)
    try:
        return msgspec.convert(msgspec.to_builtins(dict(values)), kind)
    except msgspec.ValidationError as error:
        raise InputError(str(error).replace(" - at `$.", ", at `"), where=where) from None


def _export_rope(rope: RopeParameters) -> dict[str, Any]:
    # transformers 5 reads rope_parameters; older readers (vLLM, llama.cpp's converter) the two other keys
    new = _rope_values(rope)
    old = (
        {key: value for key, value in new.items() if key != "rope_theta"}
        if rope.rope_type != "default"
        else None
    )
    return {"rope_parameters": new, "rope_theta": rope.rope_theta, "rope_scaling": old}


def _rope_values(rope: RopeParameters) -> dict[str, Any]:
    return {"rope_theta": rope.rope_theta, "rope_type": rope.rope_type, **msgspec.to_builtins(rope)}


def _import_rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    theta = values.pop("rope_theta", None)
    old = values.pop("rope_scaling", None) or {}
    rope = dict(values.pop("rope_parameters", None) or old)
    if any(isinstance(part, dict) for part in rope.values()):  # of each kind of layer
        context = values.get("max_position_embeddings")
        return {
            kind: _import_rope({"rope_parameters": part, "max_position_embeddings": context}, where)
            for kind, part in rope.items()
        }
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type", "default")
    if rope["rope_type"] not in ("default", "linear", "yarn"):
        raise InputError(
            f"rotary positions of type {rope['rope_type']!r} are not supported",
            where=where,
            expected="default, linear or yarn",
        )
    rope.setdefault("rope_theta", theta if theta is not None else 10000.0)
    if rope["rope_type"] == "yarn":
        rope.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    return {key: value for key, value in rope.items() if value is not None}


def _import_labels(values: dict[str, Any], where: str) -> tuple[str, ...]:
    """The names in the order of their ids; nothing where a file leaves them out."""
    names, back, count = (values.pop(key, None) for key in ("id2label", "label2id", "num_labels"))
    if not names:
        return tuple(f"LABEL_{i}" for i in range(count)) if isinstance(count, int) else ()
    ids = [str(i) for i in range(len(names))]
    if not isinstance(names, dict) or set(map(str, names)) != set(ids):
        raise InputError("id2label does not number its labels from 0 on", where=where)
    labels = tuple(str({str(i): name for i, name in names.items()}[i]) for i in ids)
    if count not in (None, len(labels)):
        raise InputError(f"num_labels is {count}, but id2label names {len(labels)}", where=where)
    if back is not None and back != {name: i for i, name in enumerate(labels)}:
        raise InputError("label2id is not id2label turned round", where=where)
    return labels


def with_bias(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The names of layers as those of their `weight` and `bias`."""
    return tuple((f"{a}.{kind}", f"{b}.{kind}") for a, b in pairs for kind in ("weight", "bias"))


def _part(ours: str) -> str:
    return ours.partition(".")[0]


def _announce(where: str, new: set[str], unused: set[str], anew: str) -> None:
    """What a person should know of the parts of heads."""
    if unused:
        say(f"{where}: left out what this task does not use: {', '.join(sorted(unused))}")
    if anew:
        say(f"{where}: for another task or other labels, so it starts from random weights: {anew}")
    if new - {anew}:
        say(f"{where}: not in there, so it starts from random weights: {', '.join(sorted(new - {anew}))}")


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    found = ((_pattern(source).fullmatch(name), target) for source, target in pairs)
    return [target.format(*match.groups()) for match, target in found if match]


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))


def _matches(name: str, templates: Iterable[str]) -> bool:
    return bool(_translate(name, ((template, template) for template in templates)))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# What every Hugging Face config may hold without changing the forward pass.
_IGNORED = frozenset(
    """
    architectures model_type transformers_version dtype torch_dtype _name_or_path use_cache
    output_attentions output_hidden_states return_dict attn_implementation _attn_implementation_autoset
    finetuning_task task_specific_params tokenizer_class
    sep_token_id decoder_start_token_id prefix cross_attention_hidden_size is_decoder is_encoder_decoder
    tie_encoder_decoder chunk_size_feed_forward torchscript use_bfloat16 tf_legacy_loss pruned_heads
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k
    top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_return_sequences output_scores return_dict_in_generate forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens
    """.split()  # noqa: SIM905 (one name a line would be a page)
)
