"""The stages of the pipeline, each a command: ``python -m lorcbench.stages.STAGE name=value …``."""
