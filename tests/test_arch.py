"""The architecture rows: consistent in themselves, and true of what llama.cpp's own converter writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mtpgraft.arch
from mtpgraft.arch import ArchSpec, GraphSupport, LoadPolicy, Need, all_specs, spec_for
from mtpgraft.arch.registry import _FAMILIES
from mtpgraft.arch.spec import COMPANION_BASES, READ_BUILD, REFERENCE_BUILD, companion_weight
from mtpgraft.container import GGUFModel, open_gguf
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
SOURCE = re.compile(r"\S+\.(cpp|h|py):\d+.* @ b\d+")

every = pytest.mark.parametrize("row", all_specs(), ids=lambda row: row.name)


def block_names(row: ArchSpec) -> list[str]:
    in_options = {name for alternative in row.alternatives for option in alternative.options for name in option}
    return [*(tensor.name for tensor in row.tensors), *in_options]


def test_rows_are_found_by_name_and_sorted() -> None:
    names = [row.name for row in all_specs()]
    assert names == sorted(set(names))
    assert all(spec_for(row.name) is row for row in all_specs())
    assert spec_for("llama") is None


def test_rows_asked_for_are_there() -> None:
    runs = {
        *("qwen35", "qwen35moe", "qwen3next", "qwen4exp", "deepseek2", "deepseek32", "glm-dsa", "glm4moe"),
        *("step35", "mimo2", "hy_v3", "cohere2moe", "bailingmoe3", "nemotron_h_moe"),
    }
    carried = {"glm4", "exaone4", "exaone-moe", "bailingmoe2", "dots3note", "nemotron_h"}
    refused = {
        "deepseek4",
        "graniteswitch",
        "gemma4",
        "gemma4-assistant",
        "eagle3",
        "dflash",
        "minimax-m3",
        "hy_v4",
    }
    by_name = {row.name: row for row in all_specs()}
    assert all(by_name[n].graph is not GraphSupport.NONE and by_name[n].refuse_graft is None for n in runs)
    assert all(by_name[n].graph is GraphSupport.NONE and by_name[n].refuse_graft is None for n in carried)
    assert all(by_name[n].refuse_graft for n in refused)


def test_every_module_with_rows_is_registered() -> None:
    folder = Path(mtpgraft.arch.__file__).parent
    with_rows = {path.stem for path in folder.glob("*.py") if "\nSPECS = " in path.read_text(encoding="utf-8")}
    assert with_rows == set(_FAMILIES)


def test_importing_the_package_imports_no_rows() -> None:
    code = "import sys, mtpgraft.arch; print([m for m in sys.modules if m.startswith('mtpgraft.arch.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'mtpgraft.arch.{family}'" in loaded for family in _FAMILIES)


@every
def test_tensor_names_are_distinct_and_fit(row: ArchSpec) -> None:
    names = block_names(row)
    assert [name for name, n in Counter(names).items() if n > 1] == []
    # ggml keeps names in 64 bytes, the last of them 0.
    assert [name for name in names if len(f"blk.999.{name}") > 63] == []
    assert [name for name in names if name.startswith("blk.")] == []
    assert row.known_names() == set(names)


@every
def test_alternatives_can_be_told_apart(row: ArchSpec) -> None:
    for alternative in row.alternatives:
        assert len(alternative.options) > 1 or alternative.optional
        for one in alternative.options:
            assert one and len(set(one)) == len(one)
            assert not any(set(one) <= set(other) for other in alternative.options if other is not one)


@every
def test_a_head_that_runs_has_what_every_graph_needs(row: ArchSpec) -> None:
    if row.graph in (GraphSupport.NONE, GraphSupport.WHOLE):
        return
    by_name = {tensor.name: tensor for tensor in row.tensors}
    for name, shape in (("eh_proj", ("2D", "D")), ("enorm", ("D",))):
        assert by_name[f"nextn.{name}.weight"].need is Need.REQUIRED
        assert by_name[f"nextn.{name}.weight"].shape == shape
    assert by_name["nextn.hnorm.weight"].need is Need.REQUIRED
    assert row.is_mtp
    assert row.policy_at() is not LoadPolicy.UNHANDLED


@every
def test_shapes_are_in_known_symbols(row: ArchSpec) -> None:
    symbols = {symbol for tensor in row.tensors for symbol in tensor.shape}
    assert symbols <= {"D", "2D", "V", "n_expert", "hc*D", "1"}
    assert all(t.shape for t in row.tensors if t.name.startswith("nextn.") and "hc_head" not in t.name)


@every
def test_fallbacks_are_where_a_sidecar_has_them(row: ArchSpec) -> None:
    roots = {*row.sidecar_roots, *row.sidecar_optional_roots}
    for tensor in row.tensors:
        if tensor.fallback is None:
            continue
        assert tensor.need is Need.OPTIONAL
        if tensor.fallback not in row.known_names() and row.sidecar:
            assert tensor.fallback in roots


@every
def test_arrays_are_distinct_and_complete(row: ArchSpec) -> None:
    keys = [rule.key for rule in row.arrays] + list(row.trunk_arrays)
    assert len(keys) == len(set(keys))
    assert not any(key.startswith(f"{row.name}.") for key in keys)
    if row.is_mtp:
        generic = {
            "feed_forward_length",
            "attention.head_count",
            "attention.head_count_kv",
            "expert_used_count",
        }
        assert generic <= set(keys)


@every
def test_facts_have_their_source(row: ArchSpec) -> None:
    assert SOURCE.search(row.source)
    assert all(SOURCE.search(rule.source) for rule in row.arrays)
    assert all(note.source for note in row.notes)


@every
def test_notes_lead_to_the_present(row: ArchSpec) -> None:
    builds = [note.build for note in row.notes]
    assert builds == sorted(builds)
    assert all(build <= REFERENCE_BUILD for build in builds)
    policies = [note.policy for note in row.notes if note.policy]
    graphs = [note.graph for note in row.notes if note.graph]
    assert not policies or policies[-1] is row.policy
    assert not graphs or graphs[-1] is row.graph
    assert row.policy_at() is row.policy_at(REFERENCE_BUILD) is row.policy
    assert row.graph_at() is row.graph_at(REFERENCE_BUILD + 1000) is row.graph


@pytest.mark.parametrize(
    ("name", "build", "policy", "graph"),
    [
        ("qwen35", 9000, LoadPolicy.REQUIRED, GraphSupport.SINGLE),
        ("qwen35", READ_BUILD, LoadPolicy.REQUIRED, GraphSupport.SINGLE),
        ("qwen35", REFERENCE_BUILD, LoadPolicy.TRUNK_PROBE, GraphSupport.SINGLE),
        ("glm4moe", 10434, LoadPolicy.REQUIRED, GraphSupport.NONE),
        ("glm4moe", 11433, LoadPolicy.REQUIRED, GraphSupport.NONE),
        ("glm4moe", READ_BUILD, LoadPolicy.TRUNK_PROBE, GraphSupport.SINGLE),
        ("glm5-next", READ_BUILD, LoadPolicy.REQUIRED, GraphSupport.NONE),
        ("glm5-next", None, LoadPolicy.TRUNK_PROBE, GraphSupport.SINGLE),
        ("step35", 10434, LoadPolicy.TRUNK_PROBE, GraphSupport.CHAIN),
    ],
)
def test_behaviour_of_a_build(name: str, build: int | None, policy: LoadPolicy, graph: GraphSupport) -> None:
    row = spec_for(name)
    assert row is not None
    assert (row.policy_at(build), row.graph_at(build)) == (policy, graph)


@every
def test_refusals_and_sidecars_agree_with_the_rest(row: ArchSpec) -> None:
    if row.policy is LoadPolicy.UNHANDLED or not row.is_mtp:
        assert row.refuse_graft
        assert not row.sidecar
    if not row.is_mtp:
        assert not row.tensors
    if row.graph is GraphSupport.NONE:
        assert not row.sidecar
    if row.sidecar:
        assert "token_embd.weight" in row.sidecar_roots
        assert not set(row.sidecar_roots) & set(row.sidecar_optional_roots)
    if row.separate_drafter:
        assert spec_for(row.separate_drafter) is not None


def test_a_checkpoint_converts_to_one_architecture() -> None:
    counts = Counter(name for row in all_specs() for name in row.hf_architectures)
    assert [name for name, n in counts.items() if n > 1] == []


def test_companions_belong_to_their_weight() -> None:
    assert companion_weight("blk.64.ffn_up.scale") == "blk.64.ffn_up.weight"
    assert companion_weight("nextn.eh_proj.input_scale") == "nextn.eh_proj.weight"
    assert companion_weight("blk.64.ffn_up.weight") is None
    assert companion_weight("blk.64.layer_output_scale.weight") is None
    assert companion_weight("scale") is None
    # None of them is a tensor that a row knows under that name.
    suffixed = {f"{base}.{suffix}" for base in COMPANION_BASES for suffix in ("scale", "input_scale")}
    assert not any(suffixed & row.known_names() for row in all_specs())


# What llama.cpp's converter wrote for random checkpoints: with the head, without it, and the head alone.

converted = sorted(path.parent.name for path in TINY.glob("*/whole.gguf"))
each_converted = pytest.mark.parametrize("folder", converted)


def opened(folder: str, name: str) -> tuple[GGUFModel, ArchSpec]:
    path = TINY / folder / name
    if not path.is_file():
        pytest.skip(f"no {path.name} for {folder}")
    model = open_gguf(path)
    row = spec_for(model.architecture)
    assert row is not None
    return model, row


def head_blocks(model: GGUFModel) -> list[dict[str, tuple[int, ...]]]:
    """Local name -> shape of each head block's tensors."""
    n_all, n_head = model.count("block_count"), model.count("nextn_predict_layers")
    assert n_all and n_head
    return [
        {t.name.split(".", 2)[2]: t.shape for t in model.tensors if t.name.startswith(f"blk.{index}.")}
        for index in range(n_all - n_head, n_all)
    ]


@each_converted
def test_converted_heads_hold_what_the_row_says(folder: str) -> None:
    model, row = opened(folder, "whole.gguf")
    width, n_vocab = model.count("embedding_length"), len(model.key("tokenizer.ggml.tokens").items())  # type: ignore[union-attr]
    assert width
    values = {"D": width, "2D": 2 * width, "V": n_vocab}
    for block in head_blocks(model):
        assert set(block) <= row.known_names()
        for tensor in row.tensors:
            if tensor.need is not Need.OPTIONAL:
                assert tensor.name in block
            if tensor.name in block and tensor.shape:
                shape = block[tensor.name]
                assert len(shape) == len(tensor.shape)
                wanted = tuple(values.get(s, have) for s, have in zip(tensor.shape, shape, strict=True))
                assert shape == wanted, tensor.name
        for alternative in row.alternatives:
            present = [option for option in alternative.options if set(option) <= set(block)]
            assert len(present) == 1 or (alternative.optional and not present)


@each_converted
def test_converted_arrays_grow_as_the_row_says(folder: str) -> None:
    whole, row = opened(folder, "whole.gguf")
    trunk, _ = opened(folder, "no-mtp.gguf")
    rules = {f"{row.name}.{rule.key}": rule for rule in row.arrays}
    trunk_keys = {key.name: key for key in trunk.keys}
    n_head = whole.count("nextn_predict_layers") or 0
    grown = set()
    for key in whole.keys:
        other = trunk_keys.get(key.name)
        if other is None or not key.name.startswith(f"{row.name}.") or bytes(other.record) == bytes(key.record):
            continue
        if key.is_array:
            grown.add(key.name)
            assert key.items()[: other.n_items] == other.items()
            assert key.n_items == other.n_items + n_head
            # A float is what the converter pads with where config.json is silent: the checkpoint may say otherwise.
            if isinstance(rules[key.name].default, int):
                assert set(key.items()[other.n_items :]) == {rules[key.name].default}
        else:
            assert key.name.removeprefix(f"{row.name}.") in ("block_count", "nextn_predict_layers")
    assert grown <= set(rules)
    # An array as long as the trunk that did not grow must be one that the row leaves alone.
    n_trunk = trunk.count("block_count")
    same = {k.name for k in trunk.keys if k.is_array and k.n_items == n_trunk and k.name not in grown}
    assert not same & set(rules)


@each_converted
def test_converted_sidecars_hold_what_the_row_says(folder: str) -> None:
    model, row = opened(folder, "mtp.gguf")
    roots = {tensor.name for tensor in model.tensors if not tensor.name.startswith("blk.")}
    assert set(row.sidecar_roots) <= roots
    assert roots <= {*row.sidecar_roots, *row.sidecar_optional_roots}
    assert row.sidecar_probe not in {tensor.name for tensor in model.tensors}
    assert not any(key.name.startswith(f"{row.name}.{drop}") for key in model.keys for drop in row.sidecar_drop_keys)


def test_the_page_says_what_the_rows_say() -> None:
    script = ROOT / "scripts" / "gen_arch_doc.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# scripts/check_arch_rows.py, on a source tree of a few lines.

ARCH_CPP = """
    { LLM_ARCH_TOY, "toy" },
    { LLM_KV_ATTENTION_RECURRENT_LAYERS, "%s.attention.recurrent_layers" },
    { LLM_KV_ATTENTION_INDEXER_TYPES, "%s.attention.indexer.types" },
    { LLM_TENSOR_TOKEN_EMBD, "token_embd" },
    { LLM_TENSOR_OUTPUT, "output" },
    { LLM_TENSOR_ATTN_NORM, "blk.%d.attn_norm" },
    { LLM_TENSOR_SSM_A, "blk.%d.ssm_a" },
    { LLM_TENSOR_NEXTN_EH_PROJ, "blk.%d.nextn.eh_proj" },
    { LLM_TENSOR_NEXTN_ENORM, "blk.%d.nextn.enorm" },
"""
TOY_CPP = """
void llama_model_toy::load_arch_hparams(llama_model_loader & ml) {
    ml.get_key_or_arr(LLM_KV_ATTENTION_RECURRENT_LAYERS, hparams.is_recr_impl, hparams.n_layer_all, false);
    ml.get_key_or_arr(LLM_KV_ATTENTION_INDEXER_TYPES, hparams.is_full_impl, hparams.n_layer(), false);
}
void llama_model_toy::load_arch_tensors(llama_model_loader & ml) {
    const bool trunk_only = probe(ml);  // create_tensor(tn(LLM_TENSOR_NEVER, "weight", i), {}, 0);
    int mtp_flags = trunk_only ? TENSOR_NOT_REQUIRED : 0;
    tok_embd = create_tensor(tn(LLM_TENSOR_TOKEN_EMBD, "weight"), { n_embd }, 0);
    output = create_tensor(tn(LLM_TENSOR_OUTPUT, "weight"), { n_embd }, TENSOR_NOT_REQUIRED);
    auto load_block = [&](int il, int flags) {
        auto & layer = layers[il];
        layer.attn_norm = create_tensor(tn(LLM_TENSOR_ATTN_NORM, "weight", il), { n_embd }, flags);
        if (hparams.is_recr(il)) {
            layer.ssm_a = create_tensor(tn(LLM_TENSOR_SSM_A, il), { 1 }, flags);
        }
    };
    for (int i = 0; i < n_layer; ++i) { load_block(i, 0); }
    for (int i = n_layer; i < n_layer_all; ++i) {
        auto & layer = layers[i];
        load_block(i, mtp_flags);
        CONDITION
        layer.nextn.eh_proj = create_tensor(tn(LLM_TENSOR_NEXTN_EH_PROJ, "weight", i), { n_embd }, mtp_flags);
        layer.nextn.enorm = create_tensor(tn(LLM_TENSOR_NEXTN_ENORM, "weight", i), { n_embd },
                                          mtp_flags | TENSOR_NOT_REQUIRED);
    }
}
std::unique_ptr<llm_graph_context> llama_model_toy::build_arch_graph(const llm_graph_params & params) const {
    return std::make_unique<graph_mtp>(*this, params);
}
llama_model_toy::graph_mtp::graph_mtp(const llama_model & model) : graph(model, no_build{}) {
    GGML_ASSERT(hparams.n_layer_nextn == 1 && "one");
    GGML_ASSERT(layer.nextn.eh_proj && layer.nextn.enorm && "missing");
}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    models = tmp_path / "src" / "models"
    models.mkdir(parents=True)
    (tmp_path / "src" / "llama-arch.cpp").write_text(ARCH_CPP)
    (tmp_path / "src" / "llama-model.cpp").write_text("case LLM_ARCH_TOY:\n return new llama_model_toy(params);")
    (tmp_path / "src" / "llama-hparams.h").write_text("std::array<uint32_t, LLAMA_MAX_LAYERS> is_recr_impl;")
    (models / "models.h").write_text("struct llama_model_toy : public llama_model_base {")
    (models / "toy.cpp").write_text(TOY_CPP.replace("CONDITION", ""))
    return tmp_path


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("check_arch_rows")


def test_the_checker_reads_a_loader(toy: Path, checker: Any) -> None:
    facts = checker.read_facts(checker.read_tree(toy), "toy")
    assert facts.required == {"attn_norm.weight", "nextn.eh_proj.weight"}
    assert facts.known == {"attn_norm.weight", "nextn.eh_proj.weight", "nextn.enorm.weight"}
    assert facts.asserted == {"nextn.eh_proj.weight", "nextn.enorm.weight"}
    assert (facts.policy, facts.graph) == (LoadPolicy.TRUNK_PROBE, GraphSupport.SINGLE)
    assert facts.arrays == {"attention.recurrent_layers"}
    assert facts.trunk_arrays == {"attention.indexer.types"}
    assert facts.sidecar_roots == {"token_embd.weight"}
    assert facts.known_roots == {"token_embd.weight", "output.weight"}


def test_the_checker_does_not_guess(toy: Path, checker: Any) -> None:
    source = 'if (hparams.new_thing) { x = create_tensor(tn(LLM_TENSOR_OUTPUT, "weight"), { 1 }, 0); }'
    (toy / "src" / "models" / "toy.cpp").write_text(TOY_CPP.replace("CONDITION", source))
    with pytest.raises(checker.SourceError, match=r"unknown condition: hparams\.new_thing"):
        checker.read_facts(checker.read_tree(toy), "toy")


@pytest.mark.slow
def test_rows_are_as_in_the_source(checker: Any) -> None:
    """Needs a llama.cpp source tree of build READ_BUILD in MTPGRAFT_LLAMA_SRC."""
    root = os.environ.get("MTPGRAFT_LLAMA_SRC")
    if not root:
        pytest.skip("MTPGRAFT_LLAMA_SRC is not set")
    tree = checker.read_tree(Path(root))
    differences = {
        row.name: checker.compare(row, checker.read_facts(tree, row.name), READ_BUILD)
        for row in all_specs()
        if row.is_mtp
    }
    assert {name: lines for name, lines in differences.items() if lines} == {}
    assert checker.companion_problems(tree) == []
    assert checker.rowless(tree) == []
