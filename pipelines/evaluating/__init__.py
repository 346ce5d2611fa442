"""The parts of ``pipelines/evaluate.py``."""
