"""The parts of ``pipelines/compare.py``."""
