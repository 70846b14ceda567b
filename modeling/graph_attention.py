"""The graph attention of AASIST (Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal
Graph Attention Networks", ICASSP 2022), from a spectral and a temporal graph to their readout."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GraphSettings:
    """Settings of the graphs; an `AasistConfig`, which says what they are, has them too. The defaults are
    those of AASIST on an encoder (Tak et al., Odyssey 2022)."""

    graph_size: int = 64
    heterogeneous_graph_size: int = 32
    pool_ratios: tuple[float, float, float] = (0.5, 0.5, 0.5)
    temperatures: tuple[float, float, float] = (2.0, 2.0, 100.0)
    attention_dropout: float = 0.2
    pool_dropout: float = 0.3
    branch_dropout: float = 0.2


class GraphAttention(nn.Module):
    """
    Graph attention layer (Tak et al., ASVspoof 2021 workshop). Every node n attends to all nodes m by
    softmax(w^T tanh(W (n ⊙ m)) / temperature) over m, ⊙ being the element-wise product.
    """

    def __init__(self, in_size: int, out_size: int, *, temperature: float, dropout: float):
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Linear(in_size, out_size)
        self.energy = nn.Parameter(torch.empty(out_size, 1))
        self.attended = nn.Linear(in_size, out_size)
        self.own = nn.Linear(in_size, out_size)
        self.norm = nn.BatchNorm1d(out_size)

    def reset_parameters(self) -> None:
        """As the authors: Xavier's initialisation of the energy."""
        nn.init.xavier_normal_(self.energy)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        """(batch, nodes, in_size) to (batch, nodes, out_size)."""
        nodes = self.dropout(nodes)
        pairs = nodes.unsqueeze(2) * nodes.unsqueeze(1)  # (batch, nodes, nodes, in_size)
        energies = (torch.tanh(apply_to_pairs(self.attention, pairs)) @ self.energy).squeeze(-1)
        weights = torch.softmax(energies / self.temperature, dim=-1)  # (batch, nodes, nodes)
        return F.selu(normalize_nodes(self.norm, self.attended(weights @ nodes) + self.own(nodes)))


class HeterogeneousStackingGraphAttention(nn.Module):
    """
    Heterogeneous stacking graph attention layer (HS-GAL): the temporal and the spectral nodes
    make one graph, whose attention has weights of its own for pairs of temporal nodes, of spectral nodes and
    of one of each. A stack node gathers from all nodes and gives nothing back.
    """

    def __init__(self, in_size: int, out_size: int, *, temperature: float, dropout: float):
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.temporal = nn.Linear(in_size, in_size)  # both kinds of nodes into one space
        self.spectral = nn.Linear(in_size, in_size)
        self.attention = nn.Linear(in_size, out_size)
        self.temporal_energy = nn.Parameter(torch.empty(out_size, 1))
        self.spectral_energy = nn.Parameter(torch.empty(out_size, 1))
        self.mixed_energy = nn.Parameter(torch.empty(out_size, 1))
        self.attended = nn.Linear(in_size, out_size)
        self.own = nn.Linear(in_size, out_size)
        self.stack_attention = nn.Linear(in_size, out_size)
        self.stack_energy = nn.Parameter(torch.empty(out_size, 1))
        self.stack_attended = nn.Linear(in_size, out_size)
        self.stack_own = nn.Linear(in_size, out_size)
        self.norm = nn.BatchNorm1d(out_size)

    def reset_parameters(self) -> None:
        """As the authors: Xavier's initialisation of the energies."""
        for energy in (self.temporal_energy, self.spectral_energy, self.mixed_energy, self.stack_energy):
            nn.init.xavier_normal_(energy)

    def forward(
        self, temporal: torch.Tensor, spectral: torch.Tensor, stack: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temporal nodes (batch, nodes, in_size), spectral nodes likewise and the stack node (batch or 1, 1,
        in_size) to the same with out_size."""
        split = temporal.shape[1]
        nodes = self.dropout(torch.cat([self.temporal(temporal), self.spectral(spectral)], dim=1))
        pairs = nodes.unsqueeze(2) * nodes.unsqueeze(1)  # (batch, nodes, nodes, in_size)
        hidden = torch.tanh(apply_to_pairs(self.attention, pairs))
        of_temporal = torch.cat(
            [hidden[:, :split, :split] @ self.temporal_energy, hidden[:, :split, split:] @ self.mixed_energy],
            dim=2,
        )
        of_spectral = torch.cat(
            [hidden[:, split:, :split] @ self.mixed_energy, hidden[:, split:, split:] @ self.spectral_energy],
            dim=2,
        )
        energies = torch.cat([of_temporal, of_spectral], dim=1).squeeze(-1)
        weights = torch.softmax(energies / self.temperature, dim=-1)  # (batch, nodes, nodes)

        energies = torch.tanh(self.stack_attention(nodes * stack)) @ self.stack_energy  # (batch, nodes, 1)
        stack_weights = torch.softmax(energies / self.temperature, dim=1).transpose(1, 2)
        stack = self.stack_attended(stack_weights @ nodes) + self.stack_own(stack)

        nodes = F.selu(normalize_nodes(self.norm, self.attended(weights @ nodes) + self.own(nodes)))
        return nodes[:, :split], nodes[:, split:], stack


class GraphPooling(nn.Module):
    """Graph pooling (Gao & Ji, ICML 2019): keeps the nodes of the highest weight, a sigmoid of a
    projection, in that order, and multiplies them by it."""

    def __init__(self, size: int, *, ratio: float, dropout: float):
        super().__init__()
        self.ratio = ratio
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Linear(size, 1)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        """(batch, nodes, size) to (batch, max(1, floor(ratio * nodes)), size)."""
        kept = max(1, int(self.ratio * nodes.shape[1]))
        weights = torch.sigmoid(self.weight(self.dropout(nodes)))  # (batch, nodes, 1)
        places = weights.topk(kept, dim=1).indices.expand(-1, -1, nodes.shape[2])
        return (nodes * weights).gather(1, places)


class AasistBranch(nn.Module):
    """One branch of the max graph operation: two heterogeneous stacking graph attention layers, with graph
    pooling after the first and a skip connection over the second."""

    def __init__(self, settings: GraphSettings):
        super().__init__()
        size = settings.heterogeneous_graph_size
        attention = {"temperature": settings.temperatures[2], "dropout": settings.attention_dropout}
        pooling = {"ratio": settings.pool_ratios[2], "dropout": settings.pool_dropout}
        self.stack = nn.Parameter(torch.empty(1, 1, settings.graph_size))
        self.first = HeterogeneousStackingGraphAttention(settings.graph_size, size, **attention)
        self.temporal_pooling = GraphPooling(size, **pooling)
        self.spectral_pooling = GraphPooling(size, **pooling)
        self.second = HeterogeneousStackingGraphAttention(size, size, **attention)
        self.dropout = nn.Dropout(settings.branch_dropout)

    def reset_parameters(self) -> None:
        """As the authors: a stack node from a normal distribution."""
        nn.init.normal_(self.stack)

    def forward(self, temporal: torch.Tensor, spectral: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Nodes of both kinds (batch, nodes, graph_size) to temporal nodes, spectral nodes and the stack node
        (batch, 1, …), each of heterogeneous_graph_size."""
        temporal, spectral, stack = self.first(temporal, spectral, self.stack)
        before = (self.temporal_pooling(temporal), self.spectral_pooling(spectral), stack)
        return tuple(
            self.dropout(nodes + added) for nodes, added in zip(before, self.second(*before), strict=True)
        )


class SpectroTemporalGraphs:
    """What a module has that reads out a spectral and a temporal graph: graph attention and pooling of each,
    and two branches that see both, of which the larger values count (the max graph operation)."""

    def add_graphs(self, in_size: int, settings: GraphSettings) -> None:
        """Make the layers, for nodes of `in_size`."""
        size, dropout = settings.graph_size, settings.attention_dropout
        spectral, temporal, _ = settings.temperatures
        self.spectral_attention = GraphAttention(in_size, size, temperature=spectral, dropout=dropout)
        self.temporal_attention = GraphAttention(in_size, size, temperature=temporal, dropout=dropout)
        spectral, temporal, _ = settings.pool_ratios
        self.spectral_pooling = GraphPooling(size, ratio=spectral, dropout=settings.pool_dropout)
        self.temporal_pooling = GraphPooling(size, ratio=temporal, dropout=settings.pool_dropout)
        self.branches = nn.ModuleList([AasistBranch(settings), AasistBranch(settings)])

    def read_out_graphs(self, spectral: torch.Tensor, temporal: torch.Tensor) -> torch.Tensor:
        """Nodes of both graphs (batch, nodes, in_size) to (batch, 5 * heterogeneous_graph_size)."""
        spectral = self.spectral_pooling(self.spectral_attention(spectral))
        temporal = self.temporal_pooling(self.temporal_attention(temporal))
        branches = [branch(temporal, spectral) for branch in self.branches]
        temporal, spectral, stack = (torch.maximum(*nodes) for nodes in zip(*branches, strict=True))
        parts = [part for nodes in (temporal, spectral) for part in (nodes.abs().amax(1), nodes.mean(1))]
        return torch.cat([*parts, stack.squeeze(1)], dim=1)


def apply_to_pairs(layer: nn.Module, pairs: torch.Tensor) -> torch.Tensor:
    """A linear layer on (batch, nodes, nodes, size); bitsandbytes' take no more than three dimensions."""
    return layer(pairs.flatten(1, 2)).unflatten(1, pairs.shape[1:3])


def normalize_nodes(norm: nn.BatchNorm1d, nodes: torch.Tensor) -> torch.Tensor:
    """Batch normalisation of nodes (batch, nodes, size), each node being one of the batch."""
    return norm(nodes.flatten(0, 1)).view_as(nodes)


__all__ = ["GraphSettings", "SpectroTemporalGraphs"]
