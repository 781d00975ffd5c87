"""`mtpgraft plan`: the budget adds up, what is said to fit fits, commands and service files are what they should be."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mtpgraft.bench.engines.mtpflags import spelling_of
from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.errors import InvalidFileError, UsageError
from mtpgraft.launch.command import DIALECTS, IK_LLAMA_CPP, LLAMA_CPP, Start, arguments, command_line
from mtpgraft.launch.compose import compose_file
from mtpgraft.launch.systemd import quoted, unit_files
from mtpgraft.vram.advice import ADVICE, advice_for
from mtpgraft.vram.budget import MemoryUse
from mtpgraft.vram.caches import Serving
from mtpgraft.vram.devices import devices_from
from mtpgraft.vram.plan import MemoryPlan, PlanRequest, make_plan
from mtpgraft.vram.search import Finder, Offload
from mtpgraft.vram.shape import model_shape
from tests.conftest import TINY, TRAINED
from tests.inprocess import InProcess
from tests.test_vram_engine import make_shape

GIB = 2**30
DONOR, BASE, SIDECAR = (TRAINED / f"{name}.gguf" for name in ("donor-bf16", "base-Q4_K_M", "mtp-q8_0"))
mtpgraft = InProcess()


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with Qwen3.6-27B's dimensions at Q4_K. No data: a plan reads the header."""
    return make_shape(tmp_path_factory.mktemp("dense"), "--shape", "27b", "--sparse")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3.6-35B-A3B's."""
    return make_shape(tmp_path_factory.mktemp("sparse"), "--shape", "35b-a3b", "--sparse")


def plan(
    path: Path, *vram_gib: float, sidecar: Path | None = None, workload: str = "code", **wanted: object
) -> MemoryPlan:
    advice = advice_for(workload)
    assert advice is not None
    request = PlanRequest(devices_from(int(size * GIB) for size in vram_gib), advice)
    request = replace(request, **wanted)  # type: ignore[arg-type]
    with open_gguf(path) as model:
        if sidecar is None:
            return make_plan(model, request)
        with open_gguf(sidecar) as head:
            return make_plan(model, request, head)


def total(plan: MemoryPlan) -> int:
    assert plan.budget is not None
    return plan.budget.n_bytes


# --- the budget ---------------------------------------------------------------------------------------------------


def test_a_27b_on_24_gib(dense: Path) -> None:
    found = plan(dense, 24)
    assert found.fits and found.n_draft == 2 and found.budget is not None
    (use,) = found.budget.uses
    # 15.92 GB of file: the embedding stays in RAM, the head is 0.45 GB (Q8_0)
    assert use.weights + use.head + found.budget.host.weights == pytest.approx(15.92e9, rel=0.001)
    assert use.head == pytest.approx(0.45e9, rel=0.02) and use.total <= 24 * GIB
    cells = {(cell.n_draft, cell.cache_type): cell.n_ctx for cell in found.contexts}
    for name in ("f16", "q8_0", "q4_0"):
        assert cells[0, name] >= cells[1, name] >= cells[2, name] >= cells[3, name] > 0
    assert cells[2, "f16"] < cells[2, "q8_0"] < cells[2, "q4_0"] <= 262144


def test_the_largest_context_fits_and_the_next_does_not(dense: Path) -> None:
    found = plan(dense, 24)
    assert found.budget is not None
    n_ctx = found.budget.serving.n_ctx
    assert plan(dense, 24, n_ctx=n_ctx).budget == found.budget
    bigger = plan(dense, 24, n_ctx=n_ctx + 256).budget
    assert bigger is None or bigger.placement.n_gpu_layers is not None


def test_off_takes_less_than_on_and_deeper_takes_more(dense: Path) -> None:
    totals = [total(plan(dense, 80, n_ctx=32768, n_draft=depth)) for depth in (0, 1, 2, 3)]
    assert totals == sorted(set(totals))
    # a snapshot of the recurrent states per drafted token: 48 layers of 3 * 10240 + 128 * 6144 numbers
    assert totals[3] - totals[2] == pytest.approx(48 * 4 * (3 * 10240 + 128 * 6144), rel=0.05)


def test_a_smaller_cache_type_takes_less(dense: Path) -> None:
    by_type = [plan(dense, 80, n_ctx=65536, cache_type=name).budget for name in ("f16", "q8_0", "q4_0")]
    caches = [budget.uses[0].kv for budget in by_type if budget is not None]
    assert len(caches) == 3 and caches[0] > caches[1] > caches[2]


def test_slots_multiply_states_and_share_the_context(dense: Path) -> None:
    one, four = (plan(dense, 80, n_ctx=32768, n_parallel=n).budget for n in (1, 4))
    assert one is not None and four is not None
    states = 3 * 48 * 4 * (3 * 10240 + 128 * 6144)
    assert four.uses[0].kv - one.uses[0].kv == 3 * states


def test_experts_go_to_ram_before_layers_do_and_as_few_as_possible(sparse: Path) -> None:
    found = plan(sparse, 12, n_ctx=32768)
    assert found.budget is not None and found.budget.placement.n_gpu_layers is None
    n = found.budget.placement.n_cpu_moe
    assert 0 < n < 41
    with open_gguf(sparse) as model:
        shape = model_shape(model)
        assert shape is not None
        from mtpgraft.vram.budget import PlannedModel

        finder = Finder(PlannedModel(model, shape), found.request.devices, found.request.reserve_nbytes)
        assert finder.budget(Offload(n_cpu_moe=n), found.budget.serving).fits
        assert not finder.budget(Offload(n_cpu_moe=n - 1), found.budget.serving).fits
    assert any("RAM" in note for note in found.notes)


def test_a_dense_model_keeps_layers_in_ram(dense: Path) -> None:
    found = plan(dense, 12, n_ctx=8192)
    assert found.budget is not None and found.budget.placement.n_cpu_moe == 0
    assert 0 < (found.budget.placement.n_gpu_layers or 0) < 66
    assert found.budget.host.weights > GIB


def test_weights_are_the_same_wherever_they_lie(dense: Path) -> None:
    places = [plan(dense, *vram, n_ctx=8192).budget for vram in ((24,), (12,), (12, 12), (6, 10, 8))]
    sums = {sum(use.weights + use.head for use in (*b.uses, b.host)) for b in places if b is not None}
    assert len(places) == 4 and max(sums) - min(sums) < 100_000  # rounding up differs: 32 bytes in RAM, 128 on a GPU


def test_several_devices_are_about_equally_full(sparse: Path) -> None:
    found = plan(sparse, 12, 12, n_ctx=131072)
    assert found.budget is not None
    uses = [use.total / GIB for use in found.budget.uses]
    assert max(uses) - min(uses) < 1.0 and sum(found.budget.placement.splits) == 42


def test_rpc_hosts_come_first(dense: Path) -> None:
    request = PlanRequest(devices_from([16 * GIB], [("10.0.0.2:50052", 8 * GIB)]), ADVICE[0], n_ctx=16384)
    with open_gguf(dense) as model:
        found = make_plan(model, request)
    assert found.budget is not None and [device.name for device in found.budget.devices] == ["10.0.0.2:50052", "GPU 0"]
    assert found.budget.uses[0].total < found.budget.uses[1].total
    # the output and the head are the last layers
    assert found.budget.uses[0].head == 0 and found.budget.uses[1].head > 0


def test_a_sidecar_costs_its_output_and_head_on_the_gpu() -> None:
    own, beside = plan(DONOR, 4, n_ctx=2048).budget, plan(BASE, 4, sidecar=SIDECAR, n_ctx=2048).budget
    assert own is not None and beside is not None and beside.serving.n_draft == 2
    with open_gguf(SIDECAR) as sidecar:
        assert beside.uses[0].head == pytest.approx(sum(tensor.n_bytes for tensor in sidecar.tensors), rel=0.02)


def test_without_a_head_only_off_is_planned() -> None:
    found = plan(BASE, 4)
    assert not found.can_draft and found.n_draft == 0 and {cell.n_draft for cell in found.contexts} == {0}
    assert plan(TINY / "exaone4" / "whole.gguf", 4).why_no_draft == "no llama.cpp graph runs the head of exaone4"


def test_what_does_not_fit_says_what_would(dense: Path) -> None:
    found = plan(dense, 1)
    assert not found.fits and found.short is not None and found.short.n_bytes > 16 * GIB
    part = plan(dense, 3, n_ctx=262144)
    assert not part.fits and part.quant_bits is None


def test_an_unknown_architecture_stays_unknown() -> None:
    found = plan(TINY / "deepseek4" / "no-mtp.gguf", 24)
    assert found.budget is None and found.contexts == () and "deepseek4" in (found.why_unknown or "")


def test_a_type_of_unknown_size_stays_unknown(tmp_path: Path) -> None:
    out = tmp_path / "iq.gguf"
    raw = bytearray(BASE.read_bytes())
    with open_gguf(BASE) as model:
        name = b"blk.0.ffn_up.weight"
        at = raw.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 16
        assert struct.unpack_from("<I", raw, at)[0] == model.tensor_by_name[name.decode()].type_id
    struct.pack_into("<I", raw, at, 139)
    out.write_bytes(raw)
    assert "IQ4_K" in (plan(out, 24).why_unknown or "")


def test_impossible_layer_counts_are_refused(tmp_path: Path) -> None:
    raw = bytearray(DONOR.read_bytes())
    name = b"qwen35.block_count"
    at = raw.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4
    struct.pack_into("<I", raw, at, 600)
    (tmp_path / "many.gguf").write_bytes(raw)
    with pytest.raises(InvalidFileError, match="impossible number of layers"):
        plan(tmp_path / "many.gguf", 24)


def test_every_part_is_counted() -> None:
    assert MemoryUse(1, 2, 4, 8, 16, 32).total == 63
    assert Serving(1000).n_cells == 1024 and Serving(1000, n_parallel=3).n_cells == 512


# --- commands -----------------------------------------------------------------------------------------------------

START = Start("model.gguf", 32768, 1, "q8_0", 2, None, None, 0)


def test_both_spellings() -> None:
    assert command_line("llama-server", START, LLAMA_CPP) == (
        "llama-server -m model.gguf -c 32768 -np 1 -ngl 999 -fa on -ctk q8_0 -ctv q8_0 --spec-type draft-mtp "
        "--spec-draft-n-max 2 --spec-draft-p-min 0 --fit off --host 127.0.0.1 --port 8080"
    )
    assert command_line("llama-server", START, IK_LLAMA_CPP) == (
        "llama-server -m model.gguf -c 32768 -np 1 -ngl 999 -fa on -ctk q8_0 -ctv q8_0 "
        "--spec-type mtp:n_max=2,p_min=0 --host 127.0.0.1 --port 8080"
    )


def test_off_and_everything_else() -> None:
    off = arguments(replace(START, n_draft=0, cache_type="f16", sidecar="head.gguf"), LLAMA_CPP)
    assert "--spec-type" not in off and "-md" not in off and "-ctk" not in off
    full = replace(
        START, sidecar="a b.gguf", n_cpu_moe=7, tensor_split=(20.0, 46.0), rpc=("h:1", "h:2"), n_gpu_layers=40
    )
    line = command_line("llama-server", full, LLAMA_CPP)
    assert shlex.split(line)[1:] == list(arguments(full, LLAMA_CPP)) and "'a b.gguf'" in line
    for words in ("-ngl 40", "--n-cpu-moe 7", "-ts 20,46", "--rpc h:1,h:2", "-md"):
        assert words in line


def test_models_of_the_hub() -> None:
    hub = replace(START, model="hf:org/repo:Q4_K_M")
    assert arguments(hub, LLAMA_CPP)[:2] == ("-hf", "org/repo:Q4_K_M")
    with pytest.raises(UsageError, match="by its name"):
        arguments(hub, IK_LLAMA_CPP)
    named = replace(START, model="hf:org/repo:sub/m.gguf")
    assert arguments(named, IK_LLAMA_CPP)[:4] == ("-hfr", "org/repo", "-hff", "sub/m.gguf")


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine, variable", [("llama.cpp", "MTPGRAFT_TEST_LLAMA_SERVER"), ("ik", "MTPGRAFT_TEST_IK_SERVER")]
)
def test_a_real_build_knows_every_option(engine: str, variable: str) -> None:
    from mtpgraft.bench.engines.find import find_binary
    from mtpgraft.bench.engines.probe import probe

    binary = os.environ.get(variable, "").split(os.pathsep)[0]
    if not binary:
        pytest.skip(f"{variable} is not set")
    build = probe(find_binary(binary))
    full = replace(START, sidecar="s.gguf", n_cpu_moe=7, tensor_split=(2.0, 4.0), rpc=("h:1",), n_ubatch=256)
    words = arguments(full, DIALECTS[engine])
    # ik_llama.cpp lists these in builds with a GPU or RPC backend only
    unlisted = {"-ngl", "-ts", "--rpc"} if engine == "ik" else set()
    assert [word for word in words if word.startswith("-") and not build.has(word) and word not in unlisted] == []
    assert spelling_of(build.options) is DIALECTS[engine].mtp, "what a bench of this build would say"


# --- service files ------------------------------------------------------------------------------------------------

AWKWARD = '/srv/my "models"/100% $HOME\\x/it\'s.gguf'


def test_a_systemd_unit_says_what_it_should() -> None:
    files = unit_files("m", "a title", "/usr/bin/llama-server", arguments(replace(START, model=AWKWARD), LLAMA_CPP))
    assert files.unit_name == "llama-server-m.service"
    assert '-m "/srv/my \\"models\\"/100%% $$HOME\\\\x/it\'s.gguf"' in files.unit
    assert "EnvironmentFile=-/etc/llama-server-m.env" in files.unit and "#CUDA_VISIBLE_DEVICES=0" in files.environment
    assert quoted("") == '""' and quoted("plain-1.gguf") == "plain-1.gguf"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("true") or "/bin/true"
    files = unit_files("m", "title: 5 % of it", program, arguments(replace(START, model=AWKWARD), LLAMA_CPP))
    unit = tmp_path / files.unit_name
    unit.write_text(files.unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    mine = [line for line in done.stderr.splitlines() if files.unit_name in line]
    assert mine == [] and done.returncode == 0, done.stderr


def test_a_compose_file_is_yaml_with_everything_in_it(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    folder = tmp_path / 'a: "b" # ${c}'
    folder.mkdir()
    start = replace(START, model=str(folder / "m.gguf"), sidecar=str(tmp_path / "head.gguf"))
    service = yaml.safe_load(compose_file(start, LLAMA_CPP))["services"]["llama-server"]
    words = service["command"]
    assert words[words.index("-m") + 1] == "/models/m.gguf" and words[words.index("-md") + 1] == "/sidecar/head.gguf"
    assert words[words.index("--host") + 1] == "0.0.0.0" and service["ports"] == ["127.0.0.1:8080:8080"]
    assert [(v["source"], v["target"]) for v in service["volumes"]] == [
        (str(folder).replace("$", "$$"), "/models"),
        (str(tmp_path), "/sidecar"),
    ]
    device = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    hub = yaml.safe_load(compose_file(replace(START, model="hf:org/repo:Q4_K_M"), LLAMA_CPP))
    assert hub["volumes"] == {"llama-cache": None}
    assert hub["services"]["llama-server"]["environment"] == {"LLAMA_CACHE": "/cache"}
    for refused in ((START, IK_LLAMA_CPP), (replace(START, rpc=("h:1",)), LLAMA_CPP)):
        with pytest.raises(UsageError):
            compose_file(*refused)


# --- the command line ---------------------------------------------------------------------------------------------


def test_the_table_the_bar_and_the_command(dense: Path) -> None:
    out = mtpgraft("plan", dense, "--vram", "24G", "--ctx", "32768").stdout
    assert "fits: MTP n=2; 32,768 tokens, cache f16" in out and "of 24.00 GiB" in out and "largest context" in out
    command = out.rstrip().splitlines()[-1]
    assert shlex.split(command)[:5] == ["llama-server", "-m", str(dense), "-c", "32768"] and "draft-mtp" in command
    assert "mtp:n_max=2" in mtpgraft("plan", dense, "--vram", "24G", "--engine", "ik").stdout
    assert "MTP off" in mtpgraft("plan", dense, "--vram", "24G", "--workload", "agent").stdout.splitlines()[1]


def test_json(sparse: Path) -> None:
    done = json.loads(mtpgraft("plan", sparse, "--vram", "12G,12G", "--rpc", "h:50052=8G", "--json").stdout)
    assert done["schema_version"] == 1 and done["fits"] and len(done["devices"]) == 3
    for device in done["devices"]:
        parts = ("weights", "head", "caches", "draft_caches", "compute", "reserve")
        assert device["total_nbytes"] == sum(device[f"{part}_nbytes"] for part in parts) <= device["nbytes"]
    assert set(done["commands"]) == {"llama.cpp", "ik"} and "--rpc h:50052" in done["commands"]["ik"]
    assert len(done["largest_contexts"]) == 12 and done["setting"]["tensor_split"]


def test_exit_codes(dense: Path) -> None:
    assert "no such file" in mtpgraft("plan", dense.with_name("nothing.gguf"), expect=2).stderr  # GPU or not
    small = mtpgraft("plan", dense, "--vram", "1200M", expect=1).stdout
    assert "do not make enough room" in small and "tokens, 1.00 GiB of it the reserve (--reserve)" in small
    two = mtpgraft("plan", dense, "--vram", "2G,2G", "--reserve", "512M", expect=1).stdout
    assert "tokens, 1.00 GiB of it the reserve" in two, "of both devices"
    assert "the reserve" not in mtpgraft("plan", dense, "--vram", "2G", "--reserve", "0").stdout
    offloaded = mtpgraft("plan", dense, "--vram", "12G", "--ctx", "32768").stdout
    assert "layers on the GPU" in offloaded and "with a smaller quant, all of it fits: about" in offloaded
    assert "unknown" in mtpgraft("plan", TINY / "deepseek4" / "no-mtp.gguf", "--vram", "5G", expect=1).stdout
    refused = mtpgraft("plan", TINY / "qwen35" / "whole.gguf", "--vram", "5G", "--kv", "q8_0", expect=1)
    assert "keys of 16" in refused.stdout
    for wrong in (
        ["--vram", "12Q"],
        ["--vram", "0"],
        ["--kv", "q9"],
        ["--engine", "vllm"],
        ["--workload", "x"],
        ["--rpc", "h=1G"],
    ):
        assert mtpgraft("plan", dense, *wrong, expect=2).stdout == ""


def test_what_is_no_model_and_what_is_no_sidecar_is_refused() -> None:
    assert "--draft SIDECAR" in mtpgraft("plan", SIDECAR, "--vram", "4G", expect=2).stderr
    assert "is not a sidecar" in mtpgraft("plan", BASE, "--draft", DONOR, "--vram", "4G", expect=2).stderr
    assert "of this machine" in mtpgraft("plan", BASE, "--draft", "hf:org/repo:Q8_0", "--vram", "4G", expect=2).stderr
    assert "-md" in mtpgraft("plan", BASE, "--draft", SIDECAR, "--vram", "4G").stdout.splitlines()[-1]


def test_no_gpu_is_an_error_that_says_what_to_give(dense: Path) -> None:
    done = mtpgraft("plan", dense, "--vram", "auto", expect=2, PATH="/nonexistent")
    assert "no GPU" in done.stderr and "--vram 12G" in done.stderr


def test_auto_asks_the_driver(dense: Path, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Some GPU, 999.1, 24576'\n")
    tool.chmod(0o755)
    out = mtpgraft("plan", dense, "--vram", "auto", PATH=f"{tmp_path}:/usr/bin:/bin").stdout
    assert "of 24.00 GiB" in out


def test_a_model_without_a_head_gets_the_audit_and_the_repair() -> None:
    out = mtpgraft("plan", BASE, "--vram", "4G").stdout
    assert "audit: dropped" in out and f"mtpgraft repair {BASE}" in out and "draft-mtp" not in out.splitlines()[-1]


def test_service_files_are_written_once(tmp_path: Path) -> None:
    folder, compose = tmp_path / "units", tmp_path / "compose.yaml"
    wanted = ["plan", DONOR, "--vram", "4G", "--systemd", folder, "--compose", compose]
    mtpgraft(*wanted)
    assert sorted(path.name for path in folder.iterdir()) == [
        "llama-server-donor-bf16.env",
        "llama-server-donor-bf16.service",
    ]
    assert str(DONOR) in (folder / "llama-server-donor-bf16.service").read_text() and compose.stat().st_size > 100
    before = compose.read_bytes()
    assert "exists already" in mtpgraft(*wanted, expect=2).stderr and compose.read_bytes() == before
    mtpgraft(*wanted, "--force")
    for option, place, words in (("--compose", tmp_path, "is a folder"), ("--systemd", compose / "x", "not a folder")):
        refused = mtpgraft("plan", DONOR, "--vram", "4G", option, place, "--force", "--json", expect=2)
        assert words in refused.stderr and not refused.stdout
    printed = mtpgraft("plan", DONOR, "--vram", "4G", "--systemd", "-", "--compose", "-").stdout
    assert "ExecStart=" in printed and "services:" in printed


def test_shapes_of_the_same_model_agree(dense: Path) -> None:
    with open_gguf(dense) as model:
        assert isinstance(model, GGUFModel)
        shape = model_shape(model)
    assert shape is not None and shape.n_ctx_train == 262144 and shape.r_width == 3 * 10240
