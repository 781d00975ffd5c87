"""Reads a llama.cpp source tree: name tables, and the functions of its model classes as nested statements.

Not a C++ parser: it knows the few shapes that the loaders are written in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class SourceError(Exception):
    """The source has a shape that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Stmt:
    text: str


@dataclass(frozen=True, slots=True)
class If:
    cond: str
    then: list[Node]
    other: list[Node]


@dataclass(frozen=True, slots=True)
class For:
    header: str
    body: list[Node]


@dataclass(frozen=True, slots=True)
class Func:
    name: str
    params: tuple[str, ...]
    body: list[Node]


Node = Stmt | If | For | Func


def without_comments(text: str) -> str:
    pattern = r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: m[1] or " ", text, flags=re.S)


def closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    depth = 0
    i = start
    while i < len(text):
        if text[i] == '"':
            i = text.index('"', i + 1)
        elif text[i] in pairs:
            depth += 1
        elif text[i] in pairs.values():
            depth -= 1
            if depth == 0:
                return i
        i += 1
    raise SourceError(f"unbalanced brackets: {text[start : start + 60]!r}")


def split_top(text: str, separator: str) -> list[str]:
    """Split at a separator that is outside all brackets and strings."""
    parts, depth, last, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == '"':
            i = text.index('"', i + 1)
        elif text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, i):
            parts.append(text[last:i])
            last = i = i + len(separator)
            continue
        i += 1
    return [*parts, text[last:]]


def parse(text: str) -> list[Node]:
    """The statements of a function body, comments removed."""
    nodes: list[Node] = []
    i = 0
    while True:
        while i < len(text) and text[i] in " \t\r\n;":
            i += 1
        if i >= len(text):
            return nodes
        node, i = _statement(text, i)
        nodes.extend(node if isinstance(node, list) else [node])


def _statement(text: str, i: int) -> tuple[Node | list[Node], int]:
    if text[i] == "{":
        end = closing(text, i)
        return parse(text[i + 1 : end]), end + 1
    if match := re.compile(r"(if|for|switch|while)\b\s*(?:constexpr\s*)?\(").match(text, i):
        start = match.end() - 1
        end = closing(text, start)
        header = " ".join(text[start + 1 : end].split())
        body, i = _substatement(text, end + 1)
        if match[1] == "for":
            return For(header, body), i
        if match[1] != "if":
            return Stmt(match[1]), i
        other: list[Node] = []
        if tail := re.compile(r"\s*else\b").match(text, i):
            other, i = _substatement(text, tail.end())
        return If(header, body, other), i
    if match := re.compile(r"auto\s+(\w+)\s*=\s*\[[^\]]*\]\s*\(").match(text, i):
        end = closing(text, match.end() - 1)
        names = [p.split()[-1].lstrip("&*") for p in text[match.end() : end].split(",") if p.strip()]
        start = text.index("{", end)
        stop = closing(text, start)
        return Func(match[1], tuple(names), parse(text[start + 1 : stop])), stop + 1
    end = i
    while end < len(text) and text[end] != ";":
        end = closing(text, end) + 1 if text[end] in "({[" else end + 1
    return Stmt(" ".join(text[i:end].split())), end + 1


def _substatement(text: str, i: int) -> tuple[list[Node], int]:
    while text[i] in " \t\r\n":
        i += 1
    node, end = _statement(text, i)
    return (node if isinstance(node, list) else [node]), end


@dataclass(frozen=True, slots=True)
class Tree:
    """A llama.cpp source tree: its name tables and the functions of its model classes."""

    src: Path
    tensors: dict[str, str]
    keys: dict[str, str]
    classes: dict[str, str]
    """general.architecture -> class, without `llama_model_`."""
    parents: dict[str, str]
    per_layer: frozenset[str]
    """Members of llama_hparams that are arrays of one value per layer."""
    generic: str
    """llama-model.cpp, comments removed."""
    functions: dict[tuple[str, str], str]
    """(class, member function) -> its body, comments removed. Only those that the rows are about."""

    def function(self, cls: str, name: str) -> str | None:
        """Body of a member function of a model class or of the nearest parent that has it."""
        while cls:
            if (cls, name) in self.functions:
                return self.functions[cls, name]
            cls = self.parents.get(cls, "")
        return None


_DEFINED = re.compile(
    r"\bllama_model_(\w+)::"
    r"(load_arch_tensors|load_arch_hparams|load_hparams|build_arch_graph|graph_mtp::graph_mtp|graph::graph)\s*\("
)


def _functions(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    for match in _DEFINED.finditer(text):
        i = closing(text, match.end() - 1) + 1
        while text[i] not in "{;":  # `const`, and a constructor's initializers
            i = closing(text, i) + 1 if text[i] == "(" else i + 1
        if text[i] == "{":
            yield (match[1], match[2]), text[i + 1 : closing(text, i)]


def read_tree(root: Path) -> Tree:
    """Raises SourceError when this is no llama.cpp tree with src/models/."""
    src = root / "src"
    if not (src / "llama-arch.cpp").is_file() or not (src / "models").is_dir():
        raise SourceError(f"{root}: no src/llama-arch.cpp or no src/models/")
    arch = without_comments((src / "llama-arch.cpp").read_text(encoding="utf-8"))
    model = without_comments((src / "llama-model.cpp").read_text(encoding="utf-8"))
    header = (src / "models" / "models.h").read_text(encoding="utf-8")
    hparams = (src / "llama-hparams.h").read_text(encoding="utf-8")
    table = dict(re.findall(r'\{\s*(LLM_\w+),\s*"([^"]*)"\s*\}', arch))
    by_case = dict(re.findall(r"case (LLM_ARCH_\w+):\s*return new llama_model_(\w+)\(", model))
    return Tree(
        src,
        {k: v for k, v in table.items() if k.startswith("LLM_TENSOR_")},
        {k: v for k, v in table.items() if k.startswith("LLM_KV_")},
        {table[case]: cls for case, cls in by_case.items() if case in table},
        dict(re.findall(r"struct llama_model_(\w+) : public llama_model_(\w+)", header)),
        frozenset(re.findall(r"std::array<\w+, LLAMA_MAX_LAYERS> (\w+);", hparams)),
        model,
        {
            name: body
            for text in [
                model,
                *(without_comments(p.read_text("utf-8")) for p in (src / "models").glob("*.cpp")),
            ]
            for name, body in _functions(text)
        },
    )
