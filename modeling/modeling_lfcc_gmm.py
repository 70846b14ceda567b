"""PyTorch LFCC-GMM model for anti-spoofing: one diagonal Gaussian mixture model per class on linear-frequency
cepstral coefficients, the baseline of the ASVspoof challenges (Todisco et al., Interspeech 2019)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import initialization as init
from transformers.modeling_outputs import XVectorOutput
from transformers.utils import can_return_tuple
from transformers.utils.quantization_config import QuantizationConfigMixin

from .configuration_lfcc_gmm import LFCCGMMConfig
from .float32 import Float32Module
from .lfcc import LFCC
from .modeling_countermeasure import CountermeasurePreTrainedModel


# Frames whose log-densities under all components are held at a time: 2 MiB for 512 components on a CPU, where
# they stay in its caches, and 128 MiB elsewhere.
CPU_CHUNK = 1024
DEVICE_CHUNK = 65536
# A component whose density is less than exp(-60), 1e-26, of the largest one's counts as that much of it. It
# is lost in rounding, and exponentials and products of subnormal numbers take ten times as long.
SMALLEST_LOG_RATIO = -60.0
# What may cancel in a frame's float32 product, in nats: at this size its error is below 1e-3 nats.
LARGEST_CANCELLATION = 1000.0
# A component so far from the center is wrong by whole nats in float32, so that its frames are not recognised.
LARGEST_DISTANCE = 1e6


@dataclass
class GMMStatistics:
    """
    Sufficient statistics of frames x under a mixture, float64, on the CPU: sums over the frames, of the
    responsibilities and of these times x - center and its square.
    """

    center: torch.Tensor  # (features,)
    log_likelihood: torch.Tensor  # (), in nats
    num_frames: torch.Tensor  # ()
    occupancy: torch.Tensor  # (components,)
    first: torch.Tensor  # (components, features)
    second: torch.Tensor  # (components, features)


class DiagonalGMM(Float32Module):
    """
    Gaussian mixture model with diagonal covariances: the persistent buffers `weights` (components,), `means`
    and `variances` (components, features).

    Log-densities of all frames under all components are one matrix product, [1, x - c, (x - c)²] times a
    matrix of coefficients that is worked out in float64. c is the mean of the mixture: expanding the square
    around it instead of around 0 keeps terms that cancel small. The product is done in float32, whatever
    autocast says, and in float64 for float64 features and for the frames of which too much cancels: those far
    from all components, as digital silence may be (log-densities of -1e6), and those of narrow components
    that are themselves far from c. On 512 components trained on LFCC that is one frame in a thousand, and
    all are within 2e-4 nats of float64. TF32, which is off by default, would not do.
    """

    def __init__(self, num_components: int, num_features: int):
        super().__init__()
        self.register_buffer("weights", torch.full((num_components,), 1 / num_components))
        self.register_buffer("means", torch.randn(num_components, num_features))
        self.register_buffer("variances", torch.ones(num_components, num_features))

    def init_weights(self) -> None:
        """Equal weights, standard normal means and unit variances, but where they have been loaded."""
        init.constant_(self.weights, 1 / len(self.weights))
        init.normal_(self.means)
        init.ones_(self.variances)

    def coefficients(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Center c (features,), a float32 number, matrix B (1 + 2 * features, components) such that
        [1, x - c, (x - c)²] B is log(weight * density), and distance of each component from c (components,),
        the sum over its features of (mean - c)² / (2 variance); float64, on the device of the features if
        that has float64.
        """
        device = torch.device("cpu") if features.device.type == "mps" else features.device  # has no float64
        weights, means, variances = (
            buffer.to(device).double() for buffer in (self.weights, self.means, self.variances)
        )
        center = (weights @ means / weights.sum()).float().double()
        means = means - center
        distance = (means.square() / (2 * variances)).sum(dim=1)
        constant = weights.log() - 0.5 * (2 * math.pi * variances).log().sum(dim=1) - distance
        return center, torch.cat([constant[None], (means / variances).T, -0.5 / variances.T]), distance

    @staticmethod
    def densities(
        features: torch.Tensor, center: torch.Tensor, matrix: torch.Tensor, distance: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """
        Walk through (frames, features) in parts: the part's rows in `features` (part,), [1, x - c, (x - c)²]
        (part, 1 + 2 * features), weight * density (part, components) relative to the frame's largest, its sum
        and log-likelihood (part, 1). A frame that float32 is not enough for is in two parts, with densities
        and log-likelihood 0 in the first: sums over parts are right.
        """
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if distance.max() > LARGEST_DISTANCE:
            features = features.to(distance)
        narrow = [each.to(features) for each in (center, matrix, distance[:, None])]
        rows = torch.arange(len(features), device=features.device)
        for part in rows.split(CPU_CHUNK if features.device.type == "cpu" else DEVICE_CHUNK):
            powers, density, total, log_likelihood = _expand(features[part], *narrow[:2])
            if features.dtype != torch.float64:
                cancelled = 2 * (density @ narrow[2]) / total - log_likelihood
                inexact = (cancelled > LARGEST_CANCELLATION)[:, 0]
                if inexact.any():
                    density[inexact], log_likelihood[inexact] = 0, 0
                    exact = part[inexact]
                    yield exact, *_expand(features[exact].to(matrix), center, matrix)
            yield part, powers, density, total, log_likelihood

    def log_likelihood(self, features: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of the density of each frame: (frames, features) to (frames,), float64."""
        return self.score(features, torch.zeros(1, dtype=torch.long, device=features.device))[0]

    def score(self, features: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Log-likelihood of each of the frames (frames, features), (frames,), and zero-order statistics of each
        utterance, which begins at one of the frames `starts` (batch,): the sum of its frames'
        responsibilities, (batch, components); float64.
        """
        coefficients = self.coefficients(features)
        log_likelihoods = coefficients[0].new_zeros(len(features))
        occupancy = coefficients[0].new_zeros(len(starts), len(self.weights))
        with torch.autocast(features.device.type, enabled=False):
            for rows, _, density, total, log_likelihood in self.densities(features, *coefficients):
                log_likelihoods[rows.to(log_likelihoods.device)] += log_likelihood[:, 0].to(log_likelihoods)
                # Sums of the rows of density / total, by utterance.
                places = torch.arange(len(rows), device=density.device)
                begins = torch.searchsorted(rows, starts).to(density.device)
                weights = 1 / total[:, 0]
                sums = F.embedding_bag(places, density, begins, mode="sum", per_sample_weights=weights)
                occupancy += sums.to(occupancy)
        return log_likelihoods, occupancy

    def score_in_a_graph(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The means of [`score`]'s values over the frames of utterances of one length (batch, frames,
        features), (batch,) and (batch, components), all in float64: no value decides the way through a
        graph."""
        center, matrix, _ = self.coefficients(features)
        _, density, total, log_likelihoods = _expand(features.flatten(0, 1).to(matrix), center, matrix)
        means = (of.unflatten(0, features.shape[:2]).mean(1) for of in (log_likelihoods, density / total))
        log_likelihood, occupancy = means
        return log_likelihood.squeeze(1), occupancy

    @torch.no_grad()
    def statistics(self, features: torch.Tensor) -> GMMStatistics:
        """What expectation-maximisation needs to know of the frames (frames, features)."""
        num_components, num_features = self.means.shape
        coefficients = self.coefficients(features)
        log_likelihood = torch.zeros((), dtype=torch.float64)
        moments = torch.zeros(num_components, 1 + 2 * num_features, dtype=torch.float64)
        with torch.autocast(features.device.type, enabled=False):
            for _, powers, density, total, part in self.densities(features, *coefficients):
                log_likelihood += part.cpu().double().sum()
                # The responsibilities are density / total: dividing the narrower factor is less work.
                moments += (density.T @ (powers / total)).cpu().double()
        occupancy, first, second = moments.split([1, num_features, num_features], dim=1)
        return GMMStatistics(
            center=coefficients[0].cpu(),
            log_likelihood=log_likelihood,
            num_frames=torch.tensor(float(len(features)), dtype=torch.float64),
            occupancy=occupancy[:, 0],
            first=first,
            second=second,
        )


def _expand(
    frames: torch.Tensor, center: torch.Tensor, matrix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What [`DiagonalGMM.densities`] yields of a part, in the dtype of the arguments."""
    difference = frames - center
    powers = torch.cat([torch.ones_like(difference[:, :1]), difference, difference.square()], dim=1)
    joint = powers @ matrix  # (part, components), log(weight * density)
    largest = joint.amax(dim=1, keepdim=True)
    density = joint.sub_(largest).clamp_(min=SMALLEST_LOG_RATIO).exp_()
    total = density.sum(dim=1, keepdim=True)
    return powers, density, total, largest + total.log()


class LFCCGMMPreTrainedModel(CountermeasurePreTrainedModel):
    """Initialisation and loading of LFCC-GMM."""

    config_class = LFCCGMMConfig
    base_model_prefix = "lfcc_gmm"
    _keep_in_fp32_modules_strict = ["gmms", "lfcc"]
    accepts_loss_kwargs = False  # it has no parameters

    @classmethod
    def from_pretrained(cls, *args, quantization_config: QuantizationConfigMixin | None = None, **kwargs):
        """As for every countermeasure; a `ValueError` where it is to be quantised."""
        if quantization_config is not None:
            raise ValueError("LFCC-GMM has no matrix products to quantise: leave out quantization_config.")
        return super().from_pretrained(*args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (LFCC, DiagonalGMM)):
            module.init_weights()
        else:
            super()._init_weights(module)

    # The library's ask the first parameter, and this model has none.
    @property
    def device(self) -> torch.device:
        return next(self.gmms.buffers()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.gmms.buffers()).dtype  # the front end is float32 always


class LFCCGMMModel(LFCCGMMPreTrainedModel):
    """
    LFCC and a Gaussian mixture model per label. The embeddings are the zero-order Baum-Welch statistics of
    the mixtures (Dehak et al., "Front-End Factor Analysis for Speaker Verification", IEEE TASLP 2011, eq. 3)
    over the number of frames: which share of an utterance's frames each component accounts for.

    It has no parameters and is not trained by gradient: `training_lfcc_gmm.py` fits `gmms`, by label.
    """

    def __init__(self, config: LFCCGMMConfig):
        super().__init__(config)
        self.lfcc = LFCC(config)
        num_features = (1 + config.lfcc_num_deltas) * config.lfcc_num_coefficients
        self.gmms = nn.ModuleDict()
        for index in range(config.num_labels):
            self.gmms[config.id2label[index]] = DiagonalGMM(config.num_components, num_features)
        self.post_init()

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Weights, means and variances, which are buffers; none of them is trained by gradient."""
        return 0 if only_trainable else sum(buffer.numel() for buffer in self.gmms.buffers())

    def frames(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Compute the utterances' own frames from what `forward` takes: LFCC (frames, features), float32, one
        utterance after the other, and number of frames of each utterance (batch,).
        """
        num_samples = None if attention_mask is None else attention_mask.sum(dim=1)
        features = self.lfcc(input_values, num_samples).transpose(1, 2)  # (batch, frames, features)
        if num_samples is None:
            num_frames = torch.full((features.shape[0],), features.shape[1], device=features.device)
            return features.flatten(0, 1), num_frames
        num_frames = self.lfcc.num_frames(num_samples)
        own = torch.arange(features.shape[1], device=features.device) < num_frames[:, None]  # (batch, frames)
        return features[own], num_frames

    def score(self, features: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean log-likelihoods of a frame (batch, num_labels) and embeddings (batch, num_labels *
        num_components), in the order of the labels, of what `frames` gives."""
        if torch.compiler.is_exporting():
            utterances = features.unflatten(0, (num_frames.shape[0], -1))
            scored = [gmm.score_in_a_graph(utterances) for gmm in self.gmms.values()]
            means, occupancies = zip(*scored, strict=True)
            return torch.stack(means, dim=1).to(features), torch.cat(occupancies, dim=1).to(features)
        lengths, starts = num_frames.tolist(), num_frames.cumsum(0) - num_frames
        scored = [gmm.score(features, starts) for gmm in self.gmms.values()]
        means = [torch.stack([part.mean() for part in found.split(lengths)]) for found, _ in scored]
        occupancies = torch.cat([occupancy for _, occupancy in scored], dim=1)
        embeddings = occupancies / num_frames.to(occupancies)[:, None]
        return torch.stack(means, dim=1).to(features), embeddings.to(features)

    def embed(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, output_hidden_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor, tuple]:
        """LFCC (batch, frames, features), 0 behind the last frame, and embeddings; no hidden states."""
        features, num_frames = self.frames(input_values, attention_mask)
        lfcc = pad_sequence(features.split(num_frames.tolist()), batch_first=True)
        return lfcc, self.score(features, num_frames)[1], ()


class LFCCGMMForAudioClassification(LFCCGMMModel):
    """
    The same as a classifier. The logits are the mean log-likelihoods of a frame, so the score of an
    utterance, logit of bona fide minus logit of spoof, is the one that the baseline publishes.
    """

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> XVectorOutput:
        """
        Args:
            input_values: (batch, samples) waveform at `config.sampling_rate`, amplitude in [-1, 1].
            attention_mask: (batch, samples), 1 where there is signal, 0 in the padding behind it; `None`
                where nothing is padded.
            labels: (batch,) class indices in the order of `config.id2label`.

        Returns:
            `logits` (batch, num_labels), the mean over an utterance's frames of log p(frame | label) in nats,
            float32, unless the model is calibrated (see `calibrate`), `embeddings`, and, where labels are
            given, the weighted cross-entropy as `loss`.
        """
        logits, embeddings = self.score(*self.frames(input_values, attention_mask))
        loss = self.loss_function(logits, labels)
        return XVectorOutput(loss=loss, logits=self.calibrate(logits), embeddings=embeddings)


__all__ = [
    "DiagonalGMM",
    "GMMStatistics",
    "LFCCGMMForAudioClassification",
    "LFCCGMMModel",
    "LFCCGMMPreTrainedModel",
]
