"""Grids: task x encoder x learning rate x batch x seed, each once, run by training.studies."""
