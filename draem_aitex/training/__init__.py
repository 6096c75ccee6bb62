"""From rolls to weights: sampler, configuration, the step, the loop, checkpoints, several devices (notebook 05)."""
