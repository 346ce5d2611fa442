"""Training: settings, the loop, checkpoints, recipes, a run from class folders to a bundle."""
