"""Batch entry points: classify a folder of slides, train, draw demo slides."""
