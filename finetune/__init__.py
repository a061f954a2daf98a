"""Fine-tuning of pretrained encoders: from a bundle to a classifier with measured accuracy."""
