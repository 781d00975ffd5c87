"""The command line: one thin file per command. A leaf: nothing imports it."""
