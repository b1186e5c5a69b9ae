"""ONNX's LSTM, GRU and RNN nodes in torch: its own modules where they compute the same, else a loop over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from service.errors import EngineError

# ONNX's order of gates in terms of torch's: LSTM i,o,f,c → i,f,c,o; GRU z,r,h → r,z,h.
_GATES: dict[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_REFUSED = {"clip": None, "input_forget": 0, "layout": 0}
Activation = Callable[[Any], Any]


def recurrent(kind: str, weights: list[Any], attributes: dict[str, Any]) -> nn.Module:
    """A module of x `[T, B, D]` → Y `[T, directions, B, U]` and the last states `[directions, B, U]`.

    `weights`: W `[directions, gates·U, D]`, R `[directions, gates·U, U]` and B `[directions, 2·gates·U]`, or None. Raises
    EngineError for what no exported graph holds.
    """
    for name, harmless in _REFUSED.items():
        if attributes.get(name, harmless) != harmless:
            raise EngineError(
                f"the torch baseline does not run a {kind} with {name} = {attributes[name]}; leave it out"
            )
    kernel, recurrence, *rest = weights
    bias = rest[0] if rest else torch.zeros(kernel.shape[0], 2 * kernel.shape[1])
    names = [name.lower() for name in attributes.get("activations", [])] or list(_USUAL[kind]) * kernel.shape[0]
    resets_after = kind != "GRU" or attributes.get("linear_before_reset", 0) == 1
    each = len(_USUAL[kind])
    usual = all(tuple(names[at : at + each]) == _USUAL[kind] for at in range(0, len(names), each))
    if usual and resets_after:
        return _Native(kind, kernel, recurrence, bias, attributes.get("direction", "forward"))
    return _Stepwise(kind, (kernel, recurrence, bias), attributes, names=names, resets_after=resets_after)


class _Native(nn.Module):  # type: ignore[misc]  # torch is not there to be typed
    """cuDNN's kernels on a GPU, oneDNN's on a CPU."""

    def __init__(self, kind: str, kernel: Any, recurrence: Any, bias: Any, direction: str) -> None:
        super().__init__()
        directions, width = kernel.shape[0], kernel.shape[1]
        self._units, self._directions = recurrence.shape[2], directions
        self._reversed, self._kind = direction == "reverse", kind
        module = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind]
        self.rnn = module(kernel.shape[2], self._units, bidirectional=directions == 2)
        gates = _GATES[kind]

        def ordered(rows: Any) -> Any:
            """`[gates·U, …]` in torch's order of gates."""
            parts = rows.chunk(len(gates))
            return torch.cat([parts[gate] for gate in gates])

        with torch.no_grad():
            for number in range(directions):
                suffix = "_l0_reverse" if number else "_l0"
                getattr(self.rnn, f"weight_ih{suffix}").copy_(ordered(kernel[number]))
                getattr(self.rnn, f"weight_hh{suffix}").copy_(ordered(recurrence[number]))
                getattr(self.rnn, f"bias_ih{suffix}").copy_(ordered(bias[number, :width]))
                getattr(self.rnn, f"bias_hh{suffix}").copy_(ordered(bias[number, width:]))

    def forward(self, x: Any) -> tuple[Any, ...]:
        output, states = self.rnn(x.flip(0) if self._reversed else x)
        output = output.flip(0) if self._reversed else output
        sequence = output.unflatten(2, (self._directions, self._units)).permute(0, 2, 1, 3)
        return (sequence, *states) if self._kind == "LSTM" else (sequence, states)


class _Stepwise(nn.Module):  # type: ignore[misc]  # likewise
    """Other activations than the usual, or a GRU that resets before the product: torch has no module of these."""

    def __init__(
        self,
        kind: str,
        weights: tuple[Any, Any, Any],
        attributes: dict[str, Any],
        *,
        names: list[str],
        resets_after: bool,
    ) -> None:
        super().__init__()
        self._kind, self._resets_after = kind, resets_after
        self._order = attributes.get("direction", "forward")
        each = len(_USUAL[kind])
        alphas = attributes.get("activation_alpha", [])
        betas = attributes.get("activation_beta", [])
        functions = [
            _activation(name, alphas[place] if alphas else None, betas[place] if betas else None)
            for place, name in enumerate(names)
        ]
        self._functions = [functions[at : at + each] for at in range(0, len(functions), each)]
        for name, tensor in zip(("kernel", "recurrence", "bias"), weights, strict=True):
            self.register_buffer(name, tensor)

    def forward(self, x: Any) -> tuple[Any, ...]:
        sequences, states = [], []
        for number, functions in enumerate(self._functions):
            backwards = self._order == "reverse" or number == 1
            outputs, last = self._run(x.flip(0) if backwards else x, number, functions)
            sequences.append(outputs.flip(0) if backwards else outputs)
            states.append(last)
        return (torch.stack(sequences, 1), *(torch.stack(parts) for parts in zip(*states, strict=True)))

    def _run(self, x: Any, number: int, functions: list[Activation]) -> tuple[Any, tuple[Any, ...]]:
        width = self.kernel.shape[1]
        recurrence, shift = self.recurrence[number], self.bias[number, width:]
        inputs = x @ self.kernel[number].T + self.bias[number, :width]
        hidden = x.new_zeros(x.shape[1], recurrence.shape[1])
        cell, outputs = hidden, []
        for step in inputs:
            if self._kind == "LSTM":
                hidden, cell = _lstm(step + hidden @ recurrence.T + shift, cell, functions)
            elif self._kind == "GRU":
                hidden = _gru(step, hidden, recurrence, shift, functions, resets_after=self._resets_after)
            else:
                hidden = functions[0](step + hidden @ recurrence.T + shift)
            outputs.append(hidden)
        return torch.stack(outputs), (hidden, cell) if self._kind == "LSTM" else (hidden,)


def _lstm(gates: Any, cell: Any, functions: list[Activation]) -> tuple[Any, Any]:
    gate, inner, outer = functions
    entry, out, forget, candidate = gates.chunk(4, -1)
    cell = gate(forget) * cell + gate(entry) * inner(candidate)
    return gate(out) * outer(cell), cell


def _gru(
    step: Any, hidden: Any, recurrence: Any, shift: Any, functions: list[Activation], *, resets_after: bool
) -> Any:
    gate, inner = functions
    units = hidden.shape[-1]
    update, reset = gate(step[..., : 2 * units] + hidden @ recurrence[: 2 * units].T + shift[: 2 * units]).chunk(2, -1)
    last, offset = recurrence[2 * units :], shift[2 * units :]
    past = reset * (hidden @ last.T + offset) if resets_after else (reset * hidden) @ last.T + offset
    return (1 - update) * inner(step[..., 2 * units :] + past) + update * hidden


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    known: dict[str, Activation] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
    if name == "hardsigmoid":
        slope, offset = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
        return lambda x: torch.clamp(slope * x + offset, 0, 1)
    if name not in known:
        raise EngineError(
            f"the torch baseline knows no activation {name!r} inside a recurrence; use sigmoid, tanh or relu"
        )
    return known[name]
