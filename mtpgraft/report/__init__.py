"""Result values as text, tables and JSON. A leaf: nothing outside cli/ imports it."""
