"""Runs a model in a real engine, with and without its head, and says what the head is worth.

    engine (values, Protocols) -> embedded (one engine) -> run -> metrics
    prompts -> protocol (what runs, in which order) --------^

An engine runs in a process of its own: llama.cpp aborts or crashes on many bad files.
"""
