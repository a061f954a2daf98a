"""Text to token shards: sources, cleaning, sentences, tokenizer, shards, manifest.

Needs neither torch nor Lightning. Start with `python -m data_prep build --config FILE`;
in Python, `data_prep.pipeline.build` and `data_prep.shards.TokenShards`.
"""
