"""HyperMixer's token mixing: an MLP over tokens, its weights made from the tokens.

B batch, L tokens, D width, F inner width.
"""

from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import HyperMixerConfig
from ponet.dropout import Dropout
from ponet.encoders.backbone import TokenMixer, activation_function, norm_layer


class HyperTokenMixer(TokenMixer):
    """Each token makes its row of both layers of an MLP over tokens; then a layer norm.

    The rows of padding are 0, so it neither is read nor counts, and any length costs in proportion.

    Source:
        HyperMixer (arXiv 2203.03691) with the norm of the authors' code (idiap/hypermixing, one
        head), which adds fixed sines to what makes the weights; here positions come with the
        embeddings or with the window of hashed words.
    """

    def __init__(self, config: HyperMixerConfig) -> None:
        """Build the networks that make weights."""
        super().__init__()
        self.reading = _weight_maker(config)
        self.writing = None if config.tie_weights else _weight_maker(config)
        self.activation = activation_function(config.activation)
        self.norm = norm_layer(config)
        self.dropout = Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> Tensor:
        """Return the bool (B, L, 1) mask of real tokens."""
        return batch.mask[..., None]

    def forward(self, x_BLD: Tensor, plan: Tensor) -> Tensor:
        """Return the (B, L, D) update."""
        reading_BLF = self.reading(x_BLD) * plan
        writing_BLF = reading_BLF if self.writing is None else self.writing(x_BLD) * plan
        hidden_BFD = self.activation(reading_BLF.transpose(1, 2) @ x_BLD)
        update: Tensor = self.dropout(self.norm(writing_BLF @ hidden_BFD))
        return update


def _weight_maker(config: HyperMixerConfig) -> nn.Sequential:
    width = config.hidden_size
    activation = activation_function(config.activation)
    return nn.Sequential(nn.Linear(width, width), activation, nn.Linear(width, config.mixing_size))
