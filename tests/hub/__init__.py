"""A Hub on loopback, for tests."""
