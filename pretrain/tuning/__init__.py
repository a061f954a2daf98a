"""Finders: a learning rate and a micro-batch size for a configuration, before it is trained."""
