"""The page of an inspected text: its tokens coloured by what the model makes of them, and its attention maps."""

from __future__ import annotations

import base64
import math
from html import escape as esc
from typing import Any

import numpy as np

from melete.evaluation.inspection import Guess, Inspection, Token
from melete.evaluation.page import render, section, t

# Bits of surprise from which on a token has the strongest colour.
_STRONGEST = 12.0
_LEADS = {"masked": "masked", "replaced": "replaced", "next": "next_token", "attention": "attention_only"}


def render_inspection(found: Inspection, name: str, lang: str = "auto") -> str:
    """The page as HTML text.

    Args:
        name: of the model.
        lang: language the page opens in: auto (the browser's), en or zh.

    Raises:
        InputError: an unknown language.
    """
    body = [
        _header(found, name),
        section("surprise", _flow(found)) if found.kind != "attention" else "",
        section("attention", _maps()),
    ]
    return render("inspection", lang, name, "\n".join(body), _data(found))


def _header(found: Inspection, name: str) -> str:
    shown = sum(not token.special for token in found.tokens)
    layers, heads = found.attention.shape[:2]
    facts = {"tokens": f"{shown:,}", "layers": str(layers), "heads": str(heads)}
    if found.perplexity is not None:
        facts["pseudo_perplexity" if found.kind == "masked" else "perplexity"] = f"{found.perplexity:,.1f}"
    if found.kind == "replaced":
        taken = sum(token.probability is not None and token.probability > 0.5 for token in found.tokens)
        facts["taken_for_replaced"] = f"{taken:,}"
    tiles = "".join(f"<div><dt>{t(key)}</dt><dd>{value}</dd></div>" for key, value in facts.items())
    lead = t(_LEADS[found.kind], family=found.family, parameters=f"{found.parameters:,}")
    cut = ""
    if found.left_out:
        total = f"{shown + found.left_out:,}"
        cut = f'<p class="small">{t("left_out", total=total, shown=f"{shown:,}")}</p>'
    return (
        f'<header><h1>{esc(name)}</h1><p class="lead">{lead}</p>{cut}<dl class="facts">{tiles}</dl></header>'
    )


def _flow(found: Inspection) -> str:
    """The text, each token coloured, and room for what was expected in its place."""
    replaced = found.kind == "replaced"
    ends = ("original", "swapped") if replaced else ("expected", "surprising")
    scale = f'<span class="scale">{t(ends[0])} <i></i> {t(ends[1])}</span>'
    tokens = "".join(_token(i, token, found.kind) for i, token in enumerate(found.tokens))
    if found.after:
        tokens += f' <span class="tok more" tabindex="0" data-i="{len(found.tokens)}">{t("after")} …</span>'
    says = t("replaced_says" if replaced else "surprise_says")
    return (
        f'<p class="small">{says}</p><figure class="{found.kind}"><figcaption>{scale}</figcaption>'
        f'<p class="tokens" id="tokens">{tokens}</p><div id="guesses" class="guesses"></div></figure>'
    )


def _token(number: int, token: Token, kind: str) -> str:
    strength = 0.0
    title = ""
    if token.probability is not None:
        strength = (
            token.probability if kind == "replaced" else min(1.0, _bits(token.probability) / _STRONGEST)
        )
        title = f' title="{token.probability:.1%}"'
    where = ' class="tok special"' if token.special else ' class="tok" tabindex="0"'
    style = f' data-i="{number}" style="--s:{strength:.3f}"'
    return f"{esc(token.before)}<span{where}{style}{title}>{esc(token.text)}</span>"


def _bits(probability: float) -> float:
    return -math.log2(max(probability, 1e-45))


def _maps() -> str:
    """Boxes that the page's script draws into."""
    return (
        f'<noscript><p class="small">{t("noscript_maps")}</p></noscript><p class="small">{t("attention_says")}</p>'
        '<figure><div class="maps"><div class="heads" id="heads"></div>'
        '<div class="map"><figcaption><b id="chosen"></b><span id="cell"></span></figcaption>'
        '<div class="scroll"><canvas id="map"></canvas></div></div></div>'
        '<p class="tokens looks" id="looks"></p></figure>'
        + "".join(
            f'<template id="word-{key}">{t(key)}</template>'
            for key in ("layer", "head", "mean", "bits", "no_token")
        )
    )


def _data(found: Inspection) -> dict[str, Any]:
    """What the script draws: weights as 16-bit numbers, the tokens, and what was expected."""
    layers, heads, size, _ = found.attention.shape
    weights = np.rint(found.attention * 65535).astype("<u2")
    return {
        "kind": found.kind,
        "layers": layers,
        "heads": heads,
        "size": size,
        "weights": base64.b64encode(weights.tobytes()).decode(),
        "tokens": [
            {
                "text": token.text,
                "before": token.before,
                "special": token.special,
                "p": _short(token.probability),
                "bits": None if token.probability is None else _short(_bits(token.probability)),
                "guesses": _guesses(token.guesses),
            }
            for token in found.tokens
        ],
        "after": _guesses(found.after),
    }


def _guesses(guesses: tuple[Guess, ...]) -> list[list[Any]]:
    return [[text, _short(share)] for text, share in guesses]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
