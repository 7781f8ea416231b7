"""The stages of the pipeline, each a command: ``python -m lorcbench.stages.STAGE name=value …``."""

from lorcbench.common.process import let_threads_sleep
from lorcbench.pipeline import warm

let_threads_sleep()
warm.hand_over()  # before anything heavy is imported; returns at once where no warm process was started
