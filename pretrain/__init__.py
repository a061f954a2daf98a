"""From token shards to a pretrained encoder, on PyTorch Lightning."""
