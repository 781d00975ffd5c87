"""Where bytes are: local files, and how split sets are named."""
