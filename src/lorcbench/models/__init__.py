"""Checkpoints on disk and live decoder blocks: the block walk, fused linears, perplexity, lm-eval, stand-ins. Only this package
knows transformers. May import `common`, `core`, `config` and `data`.
"""
