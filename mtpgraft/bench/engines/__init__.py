"""The engines that a bench can run: each is an `Engine` (bench/engine.py)."""
