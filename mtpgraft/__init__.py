"""Surgery on the Multi-Token-Prediction (MTP, NextN) heads of GGUF models.

The library never prints and never exits; see docs/architecture.md for the way through the code.
"""

__version__ = "0.1.0"
