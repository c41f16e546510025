"""Teachers: checkpoints, loaded and checked, and their soft targets, live or from a store."""
