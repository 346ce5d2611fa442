"""The parts of ``pipelines/classify.py``."""
