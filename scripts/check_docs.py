#!/usr/bin/env python3
"""Keeps docs/ true: regenerates what is generated, and checks what is written by hand.

    python scripts/check_docs.py          write docs/cli.md anew
    python scripts/check_docs.py --check  change nothing; exit 1 when something is out of date

Checked: docs/cli.md equals what the program says of itself; docs/architectures.md equals its generator's output;
every relative link in a Markdown file leads to a file; the README's test command is the one that .ci/run runs;
docs/architecture.md names every top-level module, and none that is gone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLI_PAGE = ROOT / "docs" / "cli.md"
_LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)")


def cli_page() -> str:
    """The CLI reference, as typer writes it."""
    command = [sys.executable, "-m", "typer", "mtpgraft.cli.main", "utils", "docs", "--name", "mtpgraft"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text.rstrip() + "\n"


def broken_links() -> list[str]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fixtures").glob("*.md")]
    return [
        f"{page.relative_to(ROOT)} links to {target}, which is not there"
        for page in pages
        for target in _LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]


def unlisted_modules() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "mtpgraft"
    names = [p.name for p in package.glob("*.py") if not p.name.startswith("__")]
    names += [f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()]
    missing = [f"docs/architecture.md does not name mtpgraft/{name}" for name in names if f"`{name}`" not in text]
    rows = re.findall(r"^\| `([\w/]+(?:\.py|/))` \|", text, re.MULTILINE)
    gone = [f"docs/architecture.md names mtpgraft/{row}, which is gone" for row in rows if not (package / row).exists()]
    return missing + gone


def unlike_ci() -> list[str]:
    """The README's test command must be what CI runs, to the letter."""
    commands = re.findall(r"^\s*(.*\.venv/bin/python -m pytest.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text()
    if not commands:
        return ["README.md has no test command"]
    return [] if commands[0] in ci else [f".ci/run does not run the README's test command: {commands[0]}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, report what is out of date")
    args = parser.parse_args()
    problems = [*broken_links(), *unlisted_modules(), *unlike_ci()]
    page = cli_page()
    if not args.check:
        CLI_PAGE.write_text(page)
    elif not CLI_PAGE.exists() or CLI_PAGE.read_text() != page:
        problems.append("docs/cli.md is out of date: run scripts/check_docs.py")
    architectures = [sys.executable, str(ROOT / "scripts" / "gen_arch_doc.py"), "--check"]
    if subprocess.run(architectures, check=False).returncode != 0:
        problems.append("docs/architectures.md is out of date: run scripts/gen_arch_doc.py")
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problem(s) in the docs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
