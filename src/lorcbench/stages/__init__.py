"""The stages of the pipeline, each a command: ``python -m lorcbench.stages.STAGE name=value …``."""

from lorcbench import warm
from lorcbench.process import let_threads_sleep

let_threads_sleep()
warm.hand_over()  # before anything heavy is imported; returns at once where no warm process was started
