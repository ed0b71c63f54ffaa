"""One experiment from its configuration to its results, with checkpoints and tracking."""
