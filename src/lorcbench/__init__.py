"""LoRC Bench: how few bits can a language model take, by which recipe, and what does each step cost?"""

__version__ = "0.1.0"
