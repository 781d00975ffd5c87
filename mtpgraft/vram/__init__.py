"""The memory that a model takes in llama.cpp, from its header alone: weights, caches, compute buffers."""
