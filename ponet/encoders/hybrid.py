"""PoNet's pools and attention in turn; each layer is the one of the encoder that it comes from."""

from ponet.config import HybridConfig
from ponet.encoders.backbone import TokenMixer
from ponet.encoders.local_global import attention_mixer
from ponet.encoders.ponet import PoNetMixer


def hybrid_mixer(config: HybridConfig, number: int) -> TokenMixer:
    """Return the mixer of a layer, counted from 0; its weights have the names of its kind."""
    attended = config.attended(number)
    if attended is None:
        return PoNetMixer(config)
    return attention_mixer(config.attention_sizes(), attended)
