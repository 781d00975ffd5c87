"""The exact command that starts a planned model, for each engine, and service files around it."""
