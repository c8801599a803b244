"""The LSTM encoder-decoder: against a step-by-step reference, and that its attention learns a rule."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import kit
from exercises import learn, right_answers


@torch.no_grad()
def test_logits_are_those_of_cells_and_products() -> None:
    model = kit.tiny_encoder_decoder("lstm")
    (source,), (row,) = kit.token_rows(9), kit.token_rows(7, seed=1)
    config, table = model.config, model.head_weight
    width, layers = config.hidden_size, config.num_decoder_layers
    parts: dict[str, nn.Module] = dict(model.named_children())
    encoder = nn.LSTM(width, width // 2, config.num_hidden_layers, bidirectional=True)
    encoder.load_state_dict(parts["encoder"].state_dict())
    keys, (last, _) = encoder(table[source] * width**0.5)  # (S, D)
    begins = parts["bridge"](torch.cat([last[-2], last[-1]])).tanh().view(2, layers, width)
    states = list(zip(*begins, strict=True))
    cells = [nn.LSTMCell(width, width) for _ in range(layers)]
    for layer, cell in enumerate(cells):
        own = parts["decoder"].state_dict()
        cell.load_state_dict({name: own[f"{name}_l{layer}"] for name in cell.state_dict()})
    expected = []
    for token in row:
        x = table[token] * width**0.5
        for layer, cell in enumerate(cells):
            states[layer] = cell(x, states[layer])
            x = states[layer][0]
        weights = torch.mv(parts["key"](keys), x).softmax(0)  # (S,)
        seen = torch.mv(keys.t(), weights)
        expected.append(parts["combine"](torch.cat([seen, x])).tanh())
    hidden = model.encode(kit.answering([source], [row]))[0]
    assert torch.allclose(hidden, torch.stack(expected), atol=1e-6)
    assert torch.allclose(model.logits(hidden), hidden @ table.t() + model.head_bias, atol=1e-5)


def test_a_tiny_one_learns_to_copy(tmp_path: Path) -> None:
    model, exercises = learn(tmp_path, "lstm", "copy", 2, 100, 1e-2)
    assert right_answers(model, exercises, 100) > 0.9
