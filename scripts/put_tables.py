"""Puts the tables that bench_all.sh wrote into the docs, each between its markers `<!-- NAME -->` and `<!-- end -->`.

python scripts/put_tables.py OUT
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(folder: str) -> None:
    for page in (DOCS / "performance.md", DOCS / "reliability.md"):
        text = page.read_text("utf-8")
        for name in re.findall(r"^<!-- ([a-z0-9-]+) -->$", text, re.MULTILINE):
            found = Path(folder) / f"{name}.md"
            if name == "end" or not found.exists():
                continue
            lines = [line for line in found.read_text("utf-8").splitlines() if not line.startswith("<!--")]
            table = "\n".join(lines).strip()
            if not table.startswith("|") and "\n|" not in table:
                print(f"{found}: no table in it, left out")
                continue
            whole = re.compile(rf"^<!-- {name} -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
            text = whole.sub(lambda _, name=name, table=table: f"<!-- {name} -->\n\n{table}\n\n<!-- end -->", text)
            print(f"{page.name}: {name}")
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
