"""PoNet's pools and attention in turn; each layer is the one of the encoder that it comes from."""

from ponet.config import HybridConfig, LocalGlobalConfig
from ponet.encoders.backbone import TokenMixer
from ponet.encoders.local_global import GlobalMixer, LocalMixer
from ponet.encoders.ponet import PoNetMixer


def hybrid_mixer(config: HybridConfig, number: int) -> TokenMixer:
    """Return the mixer of a layer, counted from 0; its weights have the names of its kind."""
    own = config.layer(number)
    if isinstance(own, LocalGlobalConfig):
        return (LocalMixer if config.attention == "local" else GlobalMixer)(own)
    return PoNetMixer(own)
