"""The parts of ``pipelines/audit.py``."""
