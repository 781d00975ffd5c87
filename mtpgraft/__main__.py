"""`mtpgraft`, and `python -m mtpgraft`."""

import sys


def main() -> None:
    """Run the command line. Importing it takes a moment, in which Ctrl-C may come as well."""
    try:
        from mtpgraft.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("mtpgraft: interrupted; no model was changed\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
