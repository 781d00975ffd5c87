"""Tiny random-weight checkpoints, one per architecture: config, tensor table and tokenizer as data.

checkpoint -> shapes -> {qwen, glm, deepseek, ...} -> registry; tokenizer stands alone. Nothing here imports
torch, transformers or mtpgraft: the fixtures must not be made by the code that they test.
"""
