"""`python -m mtpgraft`"""

from mtpgraft.cli.main import main

main()
