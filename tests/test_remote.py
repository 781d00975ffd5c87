"""Remote models against a real HTTP server that speaks the Hub's API (tests/hub): huggingface_hub is not mocked.

How little is fetched is shown by the server's own counters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.acquire import acquire_donor
from mtpgraft.container import GGUFModel
from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.errors import InputError
from mtpgraft.head import HeadState, find_head
from mtpgraft.open import fetched, open_donor, open_model
from mtpgraft.source import cache
from mtpgraft.source.ranges import RangeSet
from mtpgraft.source.transport import fetched_in_all
from tests.conftest import TINY, sha256
from tests.hub.reading import BIG_REPO, DONOR_REPO, MB, opened, repo_of
from tests.hub.server import FakeHub

# Reading


def test_a_remote_model_is_the_local_one(hub: FakeHub, trained: Path) -> None:
    with open_model(f"hf:{DONOR_REPO}") as remote, open_model(trained / "donor-bf16.gguf") as local:
        assert remote.tensors == local.tensors
        assert [bytes(key.record) for key in remote.keys] == [bytes(key.record) for key in local.keys]
        for theirs, ours in zip(remote.tensors, local.tensors, strict=True):
            data = remote.source_of(theirs).read_at(theirs.offset, theirs.n_bytes)
            assert data == local.source_of(ours).read_at(ours.offset, ours.n_bytes)
        assert remote.name == f"hf:{DONOR_REPO}/Donor-BF16.gguf"


@pytest.mark.parametrize(
    "spec",
    [
        "fixtures/bases:q4_k_m",
        "hf:fixtures/bases:Base-Q4_K_M.gguf",
        "hf:fixtures/bases@main/x:Q4_K_M",
        "hf.co/fixtures/bases:Q4_K_M",
        "{endpoint}/fixtures/bases/resolve/main/Base-Q4_K_M.gguf",
        "hf:fixtures/spaces:a folder/my model-BF16.gguf",
        "{endpoint}/fixtures/spaces/blob/main/a%20folder/my%20model-BF16.gguf",
    ],
)
def test_every_way_to_name_a_model(hub: FakeHub, spec: str) -> None:
    repo = hub.repos["fixtures/bases"]
    repo.branches["main/x"] = repo.commit
    with open_model(spec.format(endpoint=hub.endpoint)) as model:
        assert find_head(model).architecture == "qwen35"


def test_inspecting_fetches_the_header_and_little_more(hub: FakeHub) -> None:
    with open_model(f"hf:{BIG_REPO}") as model:
        header, cost = model.shards[0].header_nbytes, fetched(model)
        assert find_head(model).state is HeadState.OK
    assert header > 4 * MB
    assert header <= hub.file_nbytes <= header + MB
    assert cost is not None
    assert (cost.n_bytes, cost.of_nbytes) == (hub.file_nbytes, model.shards[0].source.size)
    assert len(hub.requests("storage")) <= 8
    with open_model(f"hf:{BIG_REPO}") as model:
        assert fetched(model) is not None
    assert hub.file_nbytes <= header + MB  # the second look is free


def test_revisions_are_pinned_before_anything_is_read(hub: FakeHub) -> None:
    repo = repo_of(DONOR_REPO)
    assert repo.commit == hub.repos[DONOR_REPO].commit
    read = repo.read_small("README.md")
    assert read == hub.repos[DONOR_REPO].files["README.md"].read_bytes()
    resolves = [seen.path for seen in hub.requests("hub") if "/resolve/" in seen.path]
    assert resolves == [f"/{DONOR_REPO}/resolve/{repo.commit}/README.md"]
    hub.reset()
    repo_of(f"{DONOR_REPO}@{repo.commit}")
    assert hub.seen == []  # a whole commit id whose files are known asks nothing


def test_trees_come_in_pages(hub: FakeHub) -> None:
    repo = repo_of("fixtures/bases")
    assert set(repo.paths) == set(hub.repos["fixtures/bases"].files)
    assert len([seen for seen in hub.seen if "/tree/" in seen.path]) == 2
    assert repo.read_small("my notes/read me.md").startswith(b"-") or repo.file("my notes/read me.md").size


def test_split_sets_from_any_shard(hub: FakeHub, tmp_path: Path, trained: Path) -> None:
    first, second = split_in_two(trained / "donor-bf16.gguf", tmp_path)
    hub.add("fixtures/split", {f"BF16/{first.name}": first, f"BF16/{second.name}": second})
    for pick in ("", ":bf16", f":BF16/{first.name}", f":BF16/{second.name}"):
        with open_model(f"hf:fixtures/split{pick}") as model:
            assert model.is_split
            assert find_head(model).state is HeadState.OK
    hub.add("fixtures/half", {second.name: second})
    with pytest.raises(InputError, match="incomplete"):
        open_model("hf:fixtures/half")


def split_in_two(path: Path, folder: Path) -> tuple[Path, Path]:
    """The model as gguf-split would cut it."""
    from mtpgraft.container.encode import TableRow, encode_header, make_key
    from mtpgraft.container.types import ValueType

    with open_model(path) as model:
        half = len(model.tensors) // 2
        shards = []
        for number, tensors in enumerate((model.tensors[:half], model.tensors[half:])):
            values = (
                ("split.no", ValueType.UINT16, number),
                ("split.count", ValueType.UINT16, 2),
                ("split.tensors.count", ValueType.INT32, len(model.tensors)),
            )
            split = [make_key(name, kind, value, "<") for name, kind, value in values]
            rows = [TableRow(t.name, t.shape, t.type_id, t.n_bytes) for t in tensors]
            header = encode_header(3, "<", 32, [*(model.keys if number == 0 else ()), *split], rows)
            out = folder / f"Split-{number + 1:05d}-of-00002.gguf"
            data = bytearray(header.file_nbytes)
            data[: len(header.raw)] = header.raw
            for tensor, offset in zip(tensors, header.data_offsets, strict=True):
                data[offset : offset + tensor.n_bytes] = model.source_of(tensor).read_at(tensor.offset, tensor.n_bytes)
            out.write_bytes(data)
            shards.append(out)
    return shards[0], shards[1]


def test_any_url(hub: FakeHub, trained: Path) -> None:
    donor = trained / "donor-bf16.gguf"
    url = f"{hub.storage}/xet/{hub.etag(donor)}?sig=5000"
    with open_model(url) as model:
        assert find_head(model).state is HeadState.OK
        assert "sig" not in model.name
    with pytest.raises(InputError, match="denied"):
        open_model(url.split("?", maxsplit=1)[0])
    with pytest.raises(InputError, match="no such file"):
        open_model(f"{hub.storage}/xet/{'0' * 64}?sig=5000")


def test_a_checkpoint_is_opened_through_its_index(hub: FakeHub) -> None:
    folder = TINY / "glm4moe" / "hf"
    hub.add("fixtures/sharded", folder)
    with open_donor("hf:fixtures/sharded") as remote, open_donor(folder) as local:
        assert isinstance(remote, Checkpoint)
        assert isinstance(local, Checkpoint)
        assert remote.file_of == local.file_of
        assert remote.config == local.config
    read = {seen.path.rsplit("/", 1)[-1] for seen in hub.seen if "/resolve/" in seen.path}
    assert read == {"config.json", "model.safetensors.index.json"}
    with open_donor(f"hf:{DONOR_REPO}") as model:
        assert isinstance(model, GGUFModel)


def test_what_a_command_fetched_is_counted(hub: FakeHub) -> None:
    before = fetched_in_all()
    with open_model("hf:fixtures/bases:Q2_K") as model:
        repo_of("fixtures/bases").read_small("my notes/read me.md")
        size = model.shards[0].source.size
    after = fetched_in_all()
    assert after.n_bytes - before.n_bytes == hub.file_nbytes
    assert after.of_nbytes >= size


# Extracting and grafting


def test_extracting_fetches_the_head_and_little_more(hub: FakeHub, big_model: Path, tmp_path: Path) -> None:
    with open_model(big_model) as model:
        head_nbytes, header_nbytes = find_head(model).n_bytes, model.shards[0].header_nbytes
    surgery.extract(big_model, tmp_path / "local.gguf")
    hub.delay_s = 0.02  # as if it were far away: requests then overlap, or the test would take them one by one
    head = acquire_donor(f"hf:{BIG_REPO}")
    assert head_nbytes > 37 * MB
    assert hub.file_nbytes <= 1.02 * head_nbytes + header_nbytes
    assert hub.max_parallel > 2
    assert same_tensors(head, tmp_path / "local.gguf")
    assert [entry.kind for entry in cache.list_entries()] == ["head", "trees"]  # the blocks have gone

    hub.reset()
    assert acquire_donor(f"hf:{BIG_REPO}") == head
    assert hub.file_nbytes == 0
    assert [seen.path for seen in hub.seen] == [f"/api/models/{BIG_REPO}/revision/main"]  # is it still that commit?
    print(f"head {head_nbytes} header {header_nbytes}")


def same_tensors(a: Path, b: Path) -> bool:
    with open_model(a) as one, open_model(b) as other:
        for ours, theirs in zip(one.tensors, other.tensors, strict=True):
            if (ours.name, ours.shape, ours.type_id) != (theirs.name, theirs.shape, theirs.type_id):
                return False
            data = one.source_of(ours).read_at(ours.offset, ours.n_bytes)
            if data != other.source_of(theirs).read_at(theirs.offset, theirs.n_bytes):
                return False
    return True


def test_a_graft_from_a_remote_donor_is_the_one_from_a_local_one(hub: FakeHub, trained: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    surgery.strip(trained / "donor-bf16.gguf", base)
    surgery.graft(base, acquire_donor(f"hf:{DONOR_REPO}"), tmp_path / "remote.gguf")
    surgery.graft(base, trained / "donor-bf16.gguf", tmp_path / "local.gguf")
    assert same_tensors(tmp_path / "remote.gguf", tmp_path / "local.gguf")
    hub.reset()
    surgery.graft(base, acquire_donor(f"hf:{DONOR_REPO}"), tmp_path / "again.gguf")
    assert hub.file_nbytes == 0
    assert sha256(tmp_path / "again.gguf") == sha256(tmp_path / "remote.gguf")


def test_a_local_donor_is_itself(tmp_path: Path) -> None:
    assert acquire_donor(tmp_path / "x.gguf") == tmp_path / "x.gguf"


def test_a_url_donor_is_cached_by_its_etag(hub: FakeHub, trained: Path) -> None:
    url = f"{hub.storage}/xet/{hub.etag(trained / 'donor-bf16.gguf')}?sig=6000"
    head = acquire_donor(url)
    hub.reset()
    assert acquire_donor(url) == head
    assert hub.file_nbytes <= 1  # the byte that tells size and ETag


def test_an_interrupted_extract_goes_on(hub: FakeHub, big_model: Path, tmp_path: Path) -> None:
    """The first process is killed in the middle; the second fetches only what is missing."""
    with open_model(big_model) as model:
        need = find_head(model).n_bytes + model.shards[0].header_nbytes
    hub.fault("storage", "drip", n=4096, times=99, skip=9)  # header and the first pieces come, the rest crawls
    script = f"from mtpgraft.acquire import acquire_donor; acquire_donor('hf:{BIG_REPO}')"
    victim = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    while (had := noted_nbytes()) < need // 3:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    kinds = {entry.kind for entry in cache.list_entries()}
    assert "blocks" in kinds
    assert "head" not in kinds
    hub.reset()
    head = acquire_donor(f"hf:{BIG_REPO}")
    assert hub.file_nbytes <= 1.02 * need - had
    surgery.extract(big_model, tmp_path / "local.gguf")
    assert same_tensors(head, tmp_path / "local.gguf")


def noted_nbytes() -> int:
    """Bytes that the journals in the cache list."""
    noted = RangeSet()
    for journal in (Path(os.environ["MTPGRAFT_CACHE"]) / "blocks").glob("*/journal"):
        for line in journal.read_text().split("\n")[:-1]:
            start, end, _ = line.split()
            noted.add(int(start), int(end))
    return noted.n_bytes


def test_damaged_blocks_are_fetched_again(hub: FakeHub, trained: Path) -> None:
    expected = (trained / "donor-bf16.gguf").read_bytes()[100_000:400_000]
    source = opened("Donor-BF16.gguf")
    assert source.read_at(100_000, 300_000) == expected
    source.close()
    (data,) = (Path(os.environ["MTPGRAFT_CACHE"]) / "blocks").glob("*/data")
    with data.open("r+b") as file:
        file.seek(200_000)
        file.write(b"power cut")
    source = opened("Donor-BF16.gguf")
    assert source.read_at(100_000, 300_000) == expected
    source.close()


def test_the_cache_lists_and_removes(hub: FakeHub) -> None:
    acquire_donor(f"hf:{DONOR_REPO}")
    open_model("hf:fixtures/bases:Q2_K").close()
    entries = cache.list_entries()
    assert [entry.kind for entry in entries] == ["head", "blocks", "trees"]
    assert DONOR_REPO in entries[0].name
    assert "Base-Q2_K.gguf" in entries[1].name
    assert entries[1].n_bytes < 2 * MB
    assert cache.remove(entries[:1]) == entries[0].n_bytes
    assert [entry.kind for entry in cache.list_entries()] == ["blocks", "trees"]
    cache.remove()
    assert cache.list_entries() == []


def test_a_cache_that_cannot_be_written_is_done_without(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTPGRAFT_CACHE", "/dev/null/cache")
    with open_model(f"hf:{DONOR_REPO}") as model:
        assert find_head(model).state is HeadState.OK


def test_old_blocks_are_pruned(hub: FakeHub) -> None:
    open_model(f"hf:{DONOR_REPO}").close()
    (about,) = (Path(os.environ["MTPGRAFT_CACHE"]) / "blocks").glob("*/about.json")
    os.utime(about, (1, 1))
    open_model("hf:fixtures/bases:Q2_K").close()
    assert not about.exists()


# Offline and the Hugging Face cache, in processes of their own: huggingface_hub reads these settings when imported


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


PRINT_STATE = """
import sys, json
from mtpgraft.errors import MtpgraftError
from mtpgraft.open import open_model, fetched
from mtpgraft.acquire import acquire_donor
try:
    with open_model(sys.argv[1] if len(sys.argv) > 1 else SPEC) as model:
        cost = fetched(model)
        print(json.dumps([model.architecture, cost.n_bytes if cost else None, str(acquire_donor(SPEC))]))
except MtpgraftError as error:
    sys.exit(f"{int(error.exit_code)} {error}")
"""


def test_offline_reads_caches_only(hub: FakeHub) -> None:
    script = f"SPEC = 'hf:{DONOR_REPO}'{PRINT_STATE}"
    failed = run(script, HF_HUB_OFFLINE="1")
    assert failed.stderr.startswith(f"2 hf:{DONOR_REPO}: is not in the cache")
    acquire_donor(f"hf:{DONOR_REPO}")
    open_model(f"hf:{DONOR_REPO}").close()
    hub.reset()
    done = run(script, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    architecture, n_bytes, head = json.loads(done.stdout)
    assert (architecture, n_bytes) == ("qwen35", 0)
    assert Path(head).is_relative_to(os.environ["MTPGRAFT_CACHE"])
    assert hub.seen == []


def test_files_in_the_hugging_face_cache_are_read_there(hub: FakeHub) -> None:
    download = f"from huggingface_hub import hf_hub_download as d; print(d('{DONOR_REPO}', 'Donor-BF16.gguf'))"
    where = run(download)
    assert where.returncode == 0, where.stderr
    script = f"SPEC = 'hf:{DONOR_REPO}'{PRINT_STATE}"
    hub.reset()
    for offline in ("0", "1"):
        done = run(script, HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ["qwen35", None, where.stdout.strip()]
    assert hub.file_nbytes == 0
