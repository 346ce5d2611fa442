"""The parts of ``pipelines/train.py``."""
