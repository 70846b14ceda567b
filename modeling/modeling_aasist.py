"""PyTorch AASIST model (Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph
Attention Networks", ICASSP 2022)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_aasist import AasistConfig
from .cosine_classifier import make_classifier
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasurePreTrainedModel, refuse_padding
from .sinc import SincBank


POOL_SIZE = 3  # of the max-pooling after the bank (bands and frames) and in every block (frames)
PIECE_FRAMES = 1536  # that a CPU takes through a block at a time where there is no autograd: 5 MiB per tensor
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., NeurIPS 2017


class SeluOnCPU(torch.autograd.Function):
    """SELU in place by exp(x) - 1 instead of expm1, slower on a CPU; they differ by less than 1e-6."""

    @staticmethod
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        for utterance in hidden:  # the temporary tensor is as large as what it is made of
            negative = utterance.clamp(max=0).exp_().sub_(1)
            utterance.clamp_(min=0).add_(negative, alpha=SELU_ALPHA).mul_(SELU_SCALE)
        return hidden

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.mark_dirty(*inputs)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (selu,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(gradient, SELU_ALPHA, SELU_SCALE, 1, True, selu)


def runs_eagerly_on_cpu(hidden: torch.Tensor) -> bool:
    return hidden.device.type == "cpu" and not torch.jit.is_tracing() and not torch.compiler.is_compiling()


def selu_(hidden: torch.Tensor) -> torch.Tensor:
    """SELU in place."""
    return SeluOnCPU.apply(hidden) if runs_eagerly_on_cpu(hidden) else F.selu(hidden, inplace=True)


class PoolFramesOnCPU(torch.autograd.Function):
    """Max-pooling of frames that keeps a byte per place for the backward pass: a tenth of `max_pool2d`'s."""

    @staticmethod
    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = F.max_pool1d(hidden.flatten(1, 2), POOL_SIZE).unflatten(1, hidden.shape[1:3])
        frames = hidden[..., : hidden.shape[3] // POOL_SIZE * POOL_SIZE]
        first, second, _ = frames.unflatten(3, (-1, POOL_SIZE)).unbind(4)
        places = first < pooled
        return pooled, places.to(torch.uint8).add_(places.logical_and_(second < pooled))

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        (places,) = ctx.saved_tensors
        hidden = gradient.new_zeros(ctx.shape)
        frames = hidden[..., : gradient.shape[3] * POOL_SIZE].unflatten(3, (-1, POOL_SIZE))
        for i in range(len(hidden)):  # places as int64 are large
            frames[i].scatter_(3, places[i, ..., None].long(), gradient[i, ..., None])
        return hidden


def put_channels_last(hidden: torch.Tensor) -> torch.Tensor:
    """The channels last in memory where a GPU trains: its batch normalisation is faster there."""
    if hidden.device.type == "cpu" or not hidden.requires_grad:
        return hidden
    return hidden.contiguous(memory_format=torch.channels_last)


def pool_frames(hidden: torch.Tensor) -> torch.Tensor:
    """Max-pooling by 3 of the frames of (batch, channels, bands, frames)."""
    if hidden.requires_grad:
        if runs_eagerly_on_cpu(hidden):
            return PoolFramesOnCPU.apply(hidden)[0]
        return F.max_pool2d(hidden, (1, POOL_SIZE))
    # Without autograd, its kernel for CPUs is several times as fast as that of `max_pool2d`.
    pooled = F.max_pool1d(hidden.flatten(1, 2), POOL_SIZE)
    return pooled.unflatten(1, hidden.shape[1:3])


class AasistBlock(nn.Module):
    """Residual block on bands and frames, and max-pooling by 3 over frames."""

    def __init__(self, in_channels: int, out_channels: int, *, pre_activation: bool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels) if pre_activation else None
        # The two kernels of even height widen the bands by one and narrow them again.
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=(2, 3), padding=(1, 1))
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=(2, 3), padding=(0, 1))
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, kernel_size=(1, 3), padding=(0, 1))
            if in_channels != out_channels
            else None
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, bands, frames) to (batch, out_channels, bands, frames // 3)."""
        inputs = hidden
        if self.norm1 is not None:
            hidden = selu_(self.norm1(hidden))
        hidden = put_channels_last(self.conv1(hidden))  # (batch, out_channels, bands + 1, frames)
        hidden = selu_(self.norm2(hidden))
        if hidden.requires_grad and runs_eagerly_on_cpu(hidden):
            utterances = zip(hidden.split(1), inputs.split(1), strict=True)
            return torch.cat([self.finish(*utterance) for utterance in utterances])  # takes less memory
        return self.finish(hidden, inputs)

    def finish(self, hidden: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """After the last batch normalisation: (batch, out_channels, bands + 1, frames) and the block's inputs
        to its outputs."""
        hidden = self.conv2(hidden)
        hidden.add_(inputs if self.shortcut is None else put_channels_last(self.shortcut(inputs)))
        return pool_frames(hidden)

    def forward_in_pieces(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same in pieces of frames, each with three frames more on both sides for the kernels."""
        parts = []
        for start in range(0, hidden.shape[3] // POOL_SIZE * POOL_SIZE, PIECE_FRAMES):
            before = min(start, POOL_SIZE)
            part = self(hidden[..., start - before : start + PIECE_FRAMES + POOL_SIZE])
            parts.append(part[..., before // POOL_SIZE :][..., : PIECE_FRAMES // POOL_SIZE])
        return torch.cat(parts, dim=3)


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

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        """(batch, nodes, in_size) to (batch, nodes, out_size)."""
        nodes = self.dropout(nodes)
        pairs = nodes.unsqueeze(2) * nodes.unsqueeze(1)  # (batch, nodes, nodes, in_size)
        energies = (torch.tanh(self.attention(pairs)) @ self.energy).squeeze(-1)
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

    def forward(
        self, temporal: torch.Tensor, spectral: torch.Tensor, stack: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temporal nodes (batch, nodes, in_size), spectral nodes likewise and the stack node (batch or 1, 1,
        in_size) to the same with out_size."""
        split = temporal.shape[1]
        nodes = self.dropout(torch.cat([self.temporal(temporal), self.spectral(spectral)], dim=1))
        pairs = nodes.unsqueeze(2) * nodes.unsqueeze(1)  # (batch, nodes, nodes, in_size)
        hidden = torch.tanh(self.attention(pairs))
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

    def __init__(self, config: AasistConfig):
        super().__init__()
        size = config.heterogeneous_graph_size
        settings = {"temperature": config.temperatures[2], "dropout": config.attention_dropout}
        pooling = {"ratio": config.pool_ratios[2], "dropout": config.pool_dropout}
        self.stack = nn.Parameter(torch.empty(1, 1, config.graph_size))
        self.first = HeterogeneousStackingGraphAttention(config.graph_size, size, **settings)
        self.temporal_pooling = GraphPooling(size, **pooling)
        self.spectral_pooling = GraphPooling(size, **pooling)
        self.second = HeterogeneousStackingGraphAttention(size, size, **settings)
        self.dropout = nn.Dropout(config.branch_dropout)

    def forward(self, temporal: torch.Tensor, spectral: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Nodes of both kinds (batch, nodes, graph_size) to temporal nodes, spectral nodes and the stack node
        (batch, 1, …), each of heterogeneous_graph_size."""
        temporal, spectral, stack = self.first(temporal, spectral, self.stack)
        before = (self.temporal_pooling(temporal), self.spectral_pooling(spectral), stack)
        return tuple(
            self.dropout(nodes + added) for nodes, added in zip(before, self.second(*before), strict=True)
        )


class AasistPreTrainedModel(CountermeasurePreTrainedModel):
    """Weight initialisation and loading of AASIST."""

    config_class = AasistConfig
    base_model_prefix = "aasist"

    def _init_weights(self, module: nn.Module) -> None:
        # As the authors: PyTorch's own initialisation, Xavier's for the energies, normal for other nodes.
        if isinstance(module, SincBank):
            module.init_weights()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
        elif isinstance(module, (GraphAttention, HeterogeneousStackingGraphAttention)):
            for name, parameter in module.named_parameters(recurse=False):
                if name.endswith("energy"):
                    init.xavier_normal_(parameter)
        elif isinstance(module, AasistBranch):
            init.normal_(module.stack)
        elif isinstance(module, AasistForAudioClassification):
            init.normal_(module.band_positions)
        else:
            super()._init_weights(module)


class AasistForAudioClassification(AasistPreTrainedModel):
    """
    AASIST: sinc bank, residual encoder, a spectral and a temporal graph with attention and pooling, the max
    graph operation on two branches of heterogeneous stacking graph attention, a linear layer on the readout.

    The score of an utterance is the logit of bona fide minus the logit of spoof; `config.id2label` says which
    is which.
    """

    def __init__(self, config: AasistConfig):
        super().__init__(config)
        self.sinc = SincBank(config)
        self.sinc_norm = nn.BatchNorm2d(1)
        channels = [1, *config.block_channels]
        self.blocks = nn.ModuleList(
            AasistBlock(channels[i], channels[i + 1], pre_activation=config.pre_activation and i > 0)
            for i in range(len(config.block_channels))
        )
        self.band_positions = nn.Parameter(torch.empty(1, config.sinc_filters // POOL_SIZE, channels[-1]))
        sizes, dropout = (channels[-1], config.graph_size), config.attention_dropout
        spectral, temporal, _ = config.temperatures
        self.spectral_attention = GraphAttention(*sizes, temperature=spectral, dropout=dropout)
        self.temporal_attention = GraphAttention(*sizes, temperature=temporal, dropout=dropout)
        spectral, temporal, _ = config.pool_ratios
        self.spectral_pooling = GraphPooling(config.graph_size, ratio=spectral, dropout=config.pool_dropout)
        self.temporal_pooling = GraphPooling(config.graph_size, ratio=temporal, dropout=config.pool_dropout)
        self.branches = nn.ModuleList([AasistBranch(config), AasistBranch(config)])
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = make_classifier(5 * config.heterogeneous_graph_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_values: (batch, num_samples) waveform at `config.sampling_rate`, amplitude in [-1, 1].
            labels: (batch,) class indices in the order of `config.id2label`.
            output_hidden_states: whether to return what `convolve` returns.
            attention_mask: accepted where it marks no padding.
            num_items_in_batch: utterances of the whole optimizer step; see `loss_function`.

        Returns:
            `logits` (batch, num_labels) and, where labels are given, `config.loss` of them as `loss`.
        """
        refuse_padding(attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if self.training or output_hidden_states or input_values.device.type != "cpu":
            hidden_states = self.convolve(input_values)
        else:
            hidden_states = [run_in_micro_batches(self.convolve_in_pieces, input_values, size=1)]
        readout = self.dropout(self.read_out(hidden_states[-1]))
        with torch.autocast(readout.device.type, enabled=False):  # scores rounded to bfloat16 would tie
            logits = self.classifier(readout.to(self.classifier.weight.dtype))

        return SequenceClassifierOutput(
            loss=self.loss_function(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=hidden_states if output_hidden_states else None,
        )

    def convolve(self, input_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Output of front end (batch, 1, bands, frames) and each block (batch, channels, bands, frames)."""
        hidden = self.front_end(input_values)
        hidden_states = (hidden,)
        for block in self.blocks:
            hidden = block(hidden)
            hidden_states += (hidden,)
        return hidden_states

    def convolve_in_pieces(self, input_values: torch.Tensor) -> torch.Tensor:
        """Output of the last block, on a CPU without autograd."""
        hidden = self.front_end(input_values)
        for block in self.blocks:
            hidden = block.forward_in_pieces(hidden)
        return hidden

    def front_end(self, input_values: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, 1, bands, frames)."""
        hidden = self.sinc.max_magnitudes(input_values, POOL_SIZE).transpose(1, 2)
        bands = hidden.shape[1] // POOL_SIZE
        hidden = hidden[:, : bands * POOL_SIZE].unflatten(1, (bands, POOL_SIZE)).amax(2).unsqueeze(1)
        return selu_(self.sinc_norm(hidden))

    def read_out(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the encoder (batch, channels, bands, frames) to (batch, 5 * heterogeneous_graph_size)."""
        hidden = hidden.abs()
        spectral = hidden.amax(dim=3).transpose(1, 2) + self.band_positions  # (batch, bands, channels)
        temporal = hidden.amax(dim=2).transpose(1, 2)  # (batch, frames, channels)
        spectral = self.spectral_pooling(self.spectral_attention(spectral))
        temporal = self.temporal_pooling(self.temporal_attention(temporal))
        branches = [branch(temporal, spectral) for branch in self.branches]
        temporal, spectral, stack = (torch.maximum(*nodes) for nodes in zip(*branches, strict=True))
        parts = [part for nodes in (temporal, spectral) for part in (nodes.abs().amax(1), nodes.mean(1))]
        return torch.cat([*parts, stack.squeeze(1)], dim=1)


def normalize_nodes(norm: nn.BatchNorm1d, nodes: torch.Tensor) -> torch.Tensor:
    """Batch normalisation of nodes (batch, nodes, size), each node being one of the batch."""
    return norm(nodes.flatten(0, 1)).view_as(nodes)


__all__ = ["AasistForAudioClassification", "AasistPreTrainedModel"]
