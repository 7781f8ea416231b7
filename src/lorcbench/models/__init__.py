"""Checkpoints on disk and live decoder blocks: architectures, the block walk, perplexity, lm-eval, stand-ins. Only this package
knows transformers. May import `common`, `core`, `config` and `data`.
"""
