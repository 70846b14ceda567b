"""The layers of AASIST in eval mode, written with numpy in float64 from the paper's description."""

from collections.abc import Mapping

import numpy as np
import torch


class AasistInFloat64:
    """Layers by their names in a state dict."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def norm(self, x, name):
        """Over the first axis of channels."""
        parts = ("weight", "bias", "running_mean", "running_var")
        w, b, mean, var = (self.state[f"{name}.{part}"] for part in parts)
        return ((x.T - mean) / np.sqrt(var + 1e-5) * w + b).T

    def conv(self, x, name, padding=(0, 0)):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
        return np.einsum("oikl,ibfkl->obf", weight, windows) + bias[:, None, None]

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def pool(self, x):
        """By 3, over the last axis."""
        return x[..., : x.shape[-1] // 3 * 3].reshape(*x.shape[:-1], -1, 3).max(-1)

    def selu(self, x):
        return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))

    def softmax(self, x, axis):
        x = np.exp(x - x.max(axis, keepdims=True))
        return x / x.sum(axis, keepdims=True)

    def block(self, x, name, *, pre_activation=False):
        y = self.selu(self.norm(x, f"{name}.norm1")) if pre_activation else x
        y = self.selu(self.norm(self.conv(y, f"{name}.conv1", (1, 1)), f"{name}.norm2"))
        has_shortcut = f"{name}.shortcut.weight" in self.state
        return self.conv(y, f"{name}.conv2", (0, 1)) + (
            self.conv(x, f"{name}.shortcut", (0, 1)) if has_shortcut else x
        )

    def attend(self, nodes, name, energies, temperature):
        weights = self.softmax(energies / temperature, 1)
        hidden = self.linear(weights @ nodes, f"{name}.attended") + self.linear(nodes, f"{name}.own")
        return self.selu(self.norm(hidden.T, f"{name}.norm").T)

    def pairs(self, nodes, name):
        return np.tanh(self.linear(nodes[:, None] * nodes[None], f"{name}.attention"))

    def graph(self, nodes, name, temperature):
        energies = (self.pairs(nodes, name) @ self.state[f"{name}.energy"])[..., 0]
        return self.attend(nodes, name, energies, temperature)

    def heterogeneous(self, nodes, name, temperature):
        temporal, spectral, stack = nodes
        temporal = self.linear(temporal, f"{name}.temporal")
        spectral = self.linear(spectral, f"{name}.spectral")
        nodes, split = np.concatenate([temporal, spectral]), len(temporal)
        hidden = self.pairs(nodes, name)
        energies = np.empty((len(nodes), len(nodes)))
        for i in range(len(nodes)):
            for j in range(len(nodes)):
                kinds = {i < split, j < split}
                kind = "mixed" if len(kinds) == 2 else ("temporal" if True in kinds else "spectral")
                energies[i, j] = hidden[i, j] @ self.state[f"{name}.{kind}_energy"][:, 0]
        of_stack = np.tanh(self.linear(nodes * stack, f"{name}.stack_attention"))
        weights = self.softmax(of_stack @ self.state[f"{name}.stack_energy"] / temperature, 0)
        stack = self.linear(weights.T @ nodes, f"{name}.stack_attended") + self.linear(
            stack, f"{name}.stack_own"
        )
        nodes = self.attend(nodes, name, energies, temperature)
        return nodes[:split], nodes[split:], stack

    def keep(self, nodes, name, ratio):
        weights = 1 / (1 + np.exp(-self.linear(nodes, f"{name}.weight")))
        order = np.argsort(-weights[:, 0])[: max(1, int(ratio * len(nodes)))]
        return (nodes * weights)[order]

    def read_out(self, spectral, temporal, settings):
        """From the nodes (nodes, size) of both graphs."""
        ratios, temperatures = settings.pool_ratios, settings.temperatures
        spectral = self.graph(spectral, "spectral_attention", temperatures[0])
        temporal = self.graph(temporal, "temporal_attention", temperatures[1])
        spectral = self.keep(spectral, "spectral_pooling", ratios[0])
        temporal = self.keep(temporal, "temporal_pooling", ratios[1])
        branches = []
        for name in ("branches.0", "branches.1"):
            nodes = (temporal, spectral, self.state[f"{name}.stack"][0])
            t, s, stack = self.heterogeneous(nodes, f"{name}.first", temperatures[2])
            t = self.keep(t, f"{name}.temporal_pooling", ratios[2])
            s = self.keep(s, f"{name}.spectral_pooling", ratios[2])
            added = self.heterogeneous((t, s, stack), f"{name}.second", temperatures[2])
            branches.append([a + b for a, b in zip((t, s, stack), added, strict=True)])
        t, s, stack = (np.maximum(*nodes) for nodes in zip(*branches, strict=True))
        return np.concatenate([np.abs(t).max(0), t.mean(0), np.abs(s).max(0), s.mean(0), stack[0]])
