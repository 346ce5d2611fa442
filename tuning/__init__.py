"""Ray Tune: hyperparameter search (not built yet)."""
