"""Reads llama.cpp's model loaders as data: which tensors a head block has, and which of them are required.

It follows the few shapes that they are written in (`create_tensor(tn(LLM_TENSOR_X, "weight", i), {...}, f)`,
two helpers, flag variables, `if`, `for` and lambdas) and raises `SourceError` at anything else rather than
guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lcpp_source import For, Func, If, Node, SourceError, Stmt, closing, split_top


@dataclass(frozen=True, slots=True)
class Created:
    """One create_tensor call.

    flags: without their TENSOR_ prefix; DUPLICATED is another use of a tensor that may be loaded already.
    sure: not inside a branch that depends on the model.
    """

    name: str
    in_block: bool
    flags: frozenset[str]
    sure: bool

    @property
    def required(self) -> bool:
        return self.sure and not self.flags & {"NOT_REQUIRED", "DUPLICATED"}


# Conditions that a head block decides by itself; None: it depends on the model, both branches count.
_CONDITIONS: tuple[tuple[str, bool | None], ...] = (
    (r"i[l]? >= n_layer|is_nextn|is_mtp|full", True),
    (r"i[l]? < n_layer", False),
    (r"hparams\.is_recr\(il?\)", False),
    (r"hparams\.is_ple\(il?\)|hparams\.is_indexer_full\(il?\)", False),
    (r"i[l]? < \(int\) hparams\.n_layer_dense_lead", False),
    (r"\(uint32_t\) i[l]? < hparams\.dsv4_hash_layer_count", False),
    (r"static_cast<uint32_t>\(i\) < hparams\.n_layer_dense_lead", False),
    (r"static_cast<uint32_t>\(i\) >= hparams\.n_layer_dense_lead", True),
    (r"i == 0", None),
    (r"i != 0", True),
    (r"q_lora_rank > 0|is_mla|hparams\.ple_n_heads > 0|ratio != 0|ratio == 4", None),
    (r"(hparams\.)?n_expert_shared > 0", None),
    (r"hparams\.rope_scaling_type_train == LLAMA_ROPE_SCALING_TYPE_LONGROPE", None),
    (r"output == (NULL|nullptr)|!output", None),
    (r"hparams\.is_swa\(i\)", None),
)
_FOR_HEAD = re.compile(r"int (\w+) = (n_layer|0); \1 < (n_layer_all|n_layer_nextn); (\+\+\1|\1\+\+)$")
_FOR_TRUNK = re.compile(r"int (\w+) = 0; \1 < n_layer; (\+\+\1|\1\+\+)$")
_HELPERS = {
    "create_tensor_qkv": (
        ("LLM_TENSOR_ATTN_QKV", "weight"),
        *((f"LLM_TENSOR_ATTN_{x}", "weight") for x in "QKV"),
        *((f"LLM_TENSOR_ATTN_{x}", "bias") for x in ("QKV", "Q", "K", "V")),
    ),
    "create_tensor_gate_up_exps": (
        ("LLM_TENSOR_FFN_GATE_UP_EXPS", "weight"),
        ("LLM_TENSOR_FFN_GATE_EXPS", "weight"),
        ("LLM_TENSOR_FFN_UP_EXPS", "weight"),
    ),
}
HELPER_MEMBERS = {
    "wqkv": "attn_qkv.weight",
    "wq": "attn_q.weight",
    "wk": "attn_k.weight",
    "wv": "attn_v.weight",
}


@dataclass(slots=True)
class Loader:
    """Runs load_arch_tensors for one head block and records what it creates.

    names: LLM_TENSOR_... -> "blk.%d.attn_norm". sidecar: the file holds a head and no trunk.
    """

    names: dict[str, str]
    sidecar: bool = False
    flags: dict[str, frozenset[str]] = field(default_factory=dict)
    bools: dict[str, bool | None] = field(default_factory=dict)
    funcs: dict[str, Func] = field(default_factory=dict)
    created: list[Created] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    saw_head: bool = False
    _sure: bool = True

    def __post_init__(self) -> None:
        self.bools |= {"mtp_only": self.sidecar, "trunk_only": False, "ml.load_mtp": True}
        trunk = frozenset({"NOT_REQUIRED"}) if self.sidecar else frozenset[str]()
        self.flags |= {"nf.trunk": trunk, "nf.mtp": frozenset()}

    def run(self, nodes: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, Func):
                self.funcs[node.name] = node
            elif isinstance(node, For):
                self._loop(node)
            elif isinstance(node, If):
                self._branch(node)
            else:
                self._stmt(node.text)

    def _loop(self, node: For) -> None:
        header = node.header.replace("uint32_t", "int")
        if _FOR_HEAD.match(header):
            self.saw_head = True
            self.run(node.body)
        elif not _FOR_TRUNK.match(header) and _creates(node.body):
            raise SourceError(f"unknown loop: for ({node.header})")

    def _branch(self, node: If) -> None:
        try:
            value = self.cond(node.cond)
        except SourceError:
            if _creates([node]):
                raise
            return
        if value is None:
            was, self._sure = self._sure, False
            self.run(node.then)
            self.run(node.other)
            self._sure = was
        else:
            self.run(node.then if value else node.other)

    def _stmt(self, text: str) -> None:
        if "create_tensor(" in text:
            self._create(text)
        elif match := re.match(r"(create_tensor_\w+)\(layer, il?, (.*)\)$", text):
            flags = self.flag_set(split_top(match[2], ",")[-1])
            for tensor, suffix in _HELPERS[match[1]]:
                # One of the forms must be there: which, only a row can say.
                self._record(tensor, suffix, flags | {"NOT_REQUIRED" if suffix == "bias" else "ONE_OF"})
        elif match := re.match(r"(\w+)\((.*)\)$", text):
            if match[1] in self.funcs:
                func = self.funcs[match[1]]
                args = [a.strip() for a in split_top(match[2], ",")]
                saved = dict(self.flags)
                for param, arg in zip(func.params, args, strict=True):
                    if param not in ("i", "il"):
                        self.flags[param] = self.flag_set(arg)
                self.run(func.body)
                self.flags = saved
        elif match := re.match(r"(\w+) \|= (.*)$", text):
            if match[1] in self.flags:
                self.flags[match[1]] |= self.flag_set(match[2])
        elif match := re.match(r"(?:const )?(?:int|bool|auto)\s+(\w+)\s*=\s*(.*)$", text):
            self._define(match[1], match[2])

    def _define(self, name: str, value: str) -> None:
        if name in self.bools or name == "nf":
            return
        if "flag" in name:
            self.flags[name] = self.flag_set(value)
        else:
            try:
                self.bools[name] = self.cond(value)
            except SourceError:
                return  # a number; whoever tests it must be in the table of conditions

    def _create(self, text: str) -> None:
        match = re.match(r"(?:(?:auto \* )?([\w.\[\]]+) = )?create_tensor\((.*)\)$", text)
        if not match:
            raise SourceError(f"unknown create_tensor form: {text}")
        args = split_top(match[2], ",")
        name = re.match(r'tn\((LLM_TENSOR_\w+)(?:, "(\w+)")?(?:, (\w+))?\)$', args[0].strip())
        if not name:
            raise SourceError(f"unknown tensor name form: {args[0]}")
        flags = self.flag_set(args[-1])
        local = self._record(name[1], name[2] or "", flags)
        if match[1] and local:
            self.members[match[1].removeprefix("layer.")] = local

    def _record(self, tensor: str, suffix: str, flags: frozenset[str]) -> str | None:
        template = self.names[tensor]
        in_block = template.startswith("blk.%d.")
        name = template.removeprefix("blk.%d.") + (f".{suffix}" if suffix else "")
        self.created.append(Created(name, in_block, flags, self._sure))
        return name if in_block else None

    def flag_set(self, text: str) -> frozenset[str]:
        text = text.strip()
        question = split_top(text, "?")
        if len(question) > 1:
            yes, no = split_top(text[len(question[0]) + 1 :], ":")
            value = self.cond(question[0])
            if value is None:
                raise SourceError(f"flags depend on the model: {text}")
            return self.flag_set(yes if value else no)
        parts = split_top(text, "|")
        if len(parts) > 1:
            return frozenset().union(*(self.flag_set(part) for part in parts))
        if text.startswith("(") and closing(text, 0) == len(text) - 1:
            return self.flag_set(text[1:-1])
        if text.startswith("TENSOR_"):
            return frozenset({text.removeprefix("TENSOR_")})
        if text == "0":
            return frozenset()
        if text in self.flags:
            return self.flags[text]
        raise SourceError(f"unknown flags: {text}")

    def cond(self, text: str) -> bool | None:
        text = text.strip()
        if text.startswith("(") and closing(text, 0) == len(text) - 1:
            return self.cond(text[1:-1])
        for operator, decisive in (("||", True), ("&&", False)):
            parts = split_top(text, operator)
            if len(parts) > 1:
                values = [self.cond(part) for part in parts]
                return decisive if decisive in values else (None if None in values else not decisive)
        for pattern, value in _CONDITIONS:
            if re.fullmatch(pattern, text):
                return value
        if text in self.bools:
            return self.bools[text]
        if text.startswith("!"):
            inner = self.cond(text[1:])
            return None if inner is None else not inner
        raise SourceError(f"unknown condition: {text}")


def _creates(nodes: list[Node]) -> bool:
    return any("create_tensor" in text for text in _texts(nodes))


def _texts(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Stmt):
            yield node.text
        elif isinstance(node, If):
            yield from _texts(node.then)
            yield from _texts(node.other)
        else:
            yield from _texts(node.body)
