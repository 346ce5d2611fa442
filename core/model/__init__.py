"""The model: network, engine, heatmaps, confidence, the bundle that holds it, the predictor that uses it."""
