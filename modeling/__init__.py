"""The countermeasures. Importing this package registers them, and their feature extractor, with the Auto
classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor

from .configuration_aasist import AasistConfig
from .configuration_lcnn import LCNNConfig
from .configuration_lfcc_gmm import LFCCGMMConfig
from .configuration_rawnet2 import RawNet2Config
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .modeling_aasist import AasistForAudioClassification, AasistModel, AasistPreTrainedModel
from .modeling_lcnn import LCNNForAudioClassification, LCNNModel, LCNNPreTrainedModel
from .modeling_lfcc_gmm import LFCCGMMForAudioClassification, LFCCGMMModel, LFCCGMMPreTrainedModel
from .modeling_rawnet2 import RawNet2ForAudioClassification, RawNet2Model, RawNet2PreTrainedModel
from .modeling_wav2vec2_antispoofing import (
    Wav2Vec2AntiSpoofingForAudioClassification,
    Wav2Vec2AntiSpoofingModel,
    Wav2Vec2AntiSpoofingPreTrainedModel,
)


AntiSpoofingFeatureExtractor.register_for_auto_class()
ARCHITECTURES = {
    AasistConfig: AasistForAudioClassification,
    LCNNConfig: LCNNForAudioClassification,
    LFCCGMMConfig: LFCCGMMForAudioClassification,
    RawNet2Config: RawNet2ForAudioClassification,
    Wav2Vec2AntiSpoofingConfig: Wav2Vec2AntiSpoofingForAudioClassification,
}
for config_class, model_class in ARCHITECTURES.items():
    network_class = model_class.__bases__[-1]  # which has no last layer
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForAudioClassification.register(config_class, model_class, exist_ok=True)
    AutoModel.register(config_class, network_class, exist_ok=True)
    AutoFeatureExtractor.register(config_class, AntiSpoofingFeatureExtractor, exist_ok=True)
    # What is saved carries its own code, so that it loads where this package is not installed.
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModelForAudioClassification")
    network_class.register_for_auto_class("AutoModel")

__all__ = [
    "ARCHITECTURES",
    "AasistConfig",
    "AasistForAudioClassification",
    "AasistModel",
    "AasistPreTrainedModel",
    "AntiSpoofingFeatureExtractor",
    "LCNNConfig",
    "LCNNForAudioClassification",
    "LCNNModel",
    "LCNNPreTrainedModel",
    "LFCCGMMConfig",
    "LFCCGMMForAudioClassification",
    "LFCCGMMModel",
    "LFCCGMMPreTrainedModel",
    "RawNet2Config",
    "RawNet2ForAudioClassification",
    "RawNet2Model",
    "RawNet2PreTrainedModel",
    "Wav2Vec2AntiSpoofingConfig",
    "Wav2Vec2AntiSpoofingForAudioClassification",
    "Wav2Vec2AntiSpoofingModel",
    "Wav2Vec2AntiSpoofingPreTrainedModel",
]
