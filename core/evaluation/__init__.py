"""Evaluation: scores with intervals, where heatmaps point, the differential count, plots."""
