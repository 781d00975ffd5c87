"""Measures MTP on an NVIDIA GPU, without a network: see docs/gpu-bench.md.

    check -> build -> fixture -> heads -> bench -> shape -> collect

Each step is a list of units (state.py). A unit is done when its files are there, so a step that was interrupted goes on
with the units it lacks.
"""
