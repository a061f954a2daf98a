"""Sample numbers -> batches.

Invariant: `__getitems__` depends on nothing but its argument and the configs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pretrain.batches import Batch, BatchBuilder, Rows, SegmentConfig
from pretrain.masking import MaskingConfig
from pretrain.randomness import IntArray
from pretrain.sampler import SampleStream


class PretrainDataset(Dataset[Batch]):
    """Builds a whole batch per call; use it with an identity `collate_fn`."""

    def __init__(
        self,
        stream: SampleStream,
        *,
        max_len: int,
        masking: MaskingConfig,
        segments: SegmentConfig,
        seed: int,
    ) -> None:
        """Bind a stream to the settings of its batches.

        Args:
            stream: Which text a sample number stands for.
            max_len: Sequence length, the same as the stream's.
            masking: Which tokens are predicted.
            segments: What a segment is.
            seed: Seed of the masks.
        """
        self.stream = stream
        self._settings = (max_len, masking, segments, seed)
        self._builder = self._make_builder()

    def _make_builder(self) -> BatchBuilder:
        max_len, masking, segments, seed = self._settings
        return BatchBuilder(
            self.stream.shards, max_len=max_len, masking=masking, segments=segments, seed=seed
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave out the builder: it holds plain views of the mapped files."""
        return {"stream": self.stream, "_settings": self._settings}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Map the files again."""
        self.__dict__.update(state)
        self._builder = self._make_builder()

    def __len__(self) -> int:
        """Return the number of examples of epoch 0; the stream itself has no end."""
        return len(self.stream.plan(0))

    def __getitem__(self, sample: int) -> Batch:
        """Return a batch of one example."""
        return self.__getitems__([sample])

    def __getitems__(self, samples: Sequence[int] | IntArray) -> Batch:
        """Return the batch of these sample numbers, in their order."""
        return self._builder.build(self.rows(np.asarray(samples, np.int64)))

    def rows(self, samples: IntArray) -> Rows:
        """Return the places, lengths and labels behind sample numbers (B,) int64."""
        epoch_B, row_B = self.stream.locate(samples)
        columns = np.empty((5, samples.size), np.int64)
        for epoch in np.unique(epoch_B):
            here = epoch_B == epoch
            plan, row = self.stream.plan(int(epoch)), row_B[here]
            fields: list[npt.NDArray[Any]] = [plan.a_start, plan.b_start, plan.a_len, plan.b_len]
            for column, values in zip(columns, [*fields, plan.label], strict=True):
                column[here] = values[row]
        a_start, b_start, a_len, b_len, label = columns
        return Rows(
            a_start=a_start,
            b_start=b_start,
            a_len=a_len,
            b_len=b_len,
            label=label,
            example_id=samples,
        )


def keep_batch(batch: Batch) -> Batch:
    """Return the batch unchanged: `PretrainDataset` builds whole batches, nothing to collate."""
    return batch
