"""Metrics of speech anti-spoofing, as `evaluate` modules: `evaluate.load("metrics/eer.py")`."""
