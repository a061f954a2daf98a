"""MLP-Mixer's token mixing: an MLP over places. B batch, L places, D width."""

from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import MLPMixerConfig
from ponet.dropout import Dropout
from ponet.encoders.backbone import TokenMixer, activation_function


class MLPTokenMixer(TokenMixer):
    """Linear, GELU, linear over the L places of every channel; the weights belong to places.

    Nothing is masked: empty places hold the bottleneck's bias, take part in the mixing and are
    written to, as in the published model, which learns faster so (they are its scratch space).
    """

    def __init__(self, config: MLPMixerConfig) -> None:
        """Build both linear layers."""
        super().__init__()
        self.expand = nn.Linear(config.max_positions, config.ffn_size)
        self.contract = nn.Linear(config.ffn_size, config.max_positions)
        self.activation = activation_function(config.activation)
        self.dropout = Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> None:
        """Return None: the MLP needs nothing but the hidden states.

        Raises:
            ValueError: The batch has another number of places than the weights.
        """
        places = self.expand.in_features
        if batch.input_ids.shape[1] != places:
            raise ValueError(
                f"a batch of {batch.input_ids.shape[1]} places was given to an MLP mixer of "
                f"{places}; pad it to max_positions={places}, or cut longer texts"
            )

    def forward(self, x_BLD: Tensor, plan: None) -> Tensor:
        """Return the (B, L, D) update."""
        hidden_BDH = self.activation(self.expand(x_BLD.transpose(1, 2)))
        update: Tensor = self.dropout(self.contract(hidden_BDH)).transpose(1, 2)
        return update
