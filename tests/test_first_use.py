"""What a first user does: pipes, odd streams and locales, interrupts, swapped arguments, advice pasted as printed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtpgraft.audit import audit
from mtpgraft.audit.build import mended_name
from mtpgraft.cli.run import parse_size
from mtpgraft.errors import TransientError, UsageError
from mtpgraft.modelspec import HubSpec, parse_spec
from mtpgraft.source.hub import open_repo
from tests import broken
from tests.bigmodel import make_big_base
from tests.conftest import TINY, TRAINED, Program
from tests.hub.reading import FAST
from tests.inprocess import InProcess

BASE, DONOR = TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf"
HERE = [sys.executable, "-m", "mtpgraft"]


def shell(text: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in which `mtpgraft` is the program under test."""
    function = f'mtpgraft() {{ {sys.executable} -m mtpgraft "$@"; }}; set -o pipefail; '
    command = ["bash", "-c", function + text]
    return subprocess.run(command, cwd=cwd, capture_output=True, env={**os.environ, **env}, timeout=120, check=False)


@pytest.mark.parametrize(("args", "code"), [("inspect {} -v", 0), ("audit {} --json", 0), ("audit {base} -v", 1)])
def test_a_reader_that_leaves_does_not_change_the_exit_code(tmp_path: Path, args: str, code: int) -> None:
    text = args.format(DONOR, base=BASE)
    done = shell(f"mtpgraft {text} | true", tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    closed = shell(f"mtpgraft {text} >&-", tmp_path)
    assert closed.returncode == code, closed.stderr
    assert shell(f"mtpgraft {text} <&- >/dev/null 2>&-", tmp_path).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", ["--version", "--help", f"inspect {DONOR}", f"audit {BASE} --json"])
def test_a_full_disk_behind_stdout_is_no_bug(tmp_path: Path, args: str) -> None:
    done = shell(f"mtpgraft {args} >/dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr.decode().startswith("mtpgraft: ")
    assert b"cannot be written: No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_any_name_in_any_locale(tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner 日本"
    folder.mkdir()
    shutil.copy(BASE, folder / "bäse.gguf")
    names = ["bäse.gguf"]
    try:
        shutil.copy(BASE, os.fsencode(folder) + b"/bad\xff.gguf")
        names.append(os.fsdecode(b"bad\xff.gguf"))
    except OSError:
        pass  # a file system that takes UTF-8 only
    locales = ({"LC_ALL": "C.UTF-8"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"})
    for locale in locales:
        done = shell(f"mtpgraft audit '{folder}' --json", tmp_path, **locale)
        assert done.returncode == 1, done.stderr
        results = json.loads(done.stdout.decode("utf-8"))["results"]
        if locale != {"LC_ALL": "C"}:
            assert sorted(Path(result["target"]).name for result in results) == sorted(names)
        for form in ("-v", "--sarif"):
            done = shell(f"mtpgraft audit '{folder}' {form}", tmp_path, **locale)
            assert (done.returncode, b"bug" in done.stderr) == (1, False), done.stderr
    assert shell("mtpgraft inspect 日本.gguf", tmp_path, PYTHONIOENCODING="ascii").returncode == 2
    if len(names) == 2:
        done = shell(f"mtpgraft graft '{folder}/bäse.gguf' '{folder}'/bad*.gguf -o out.gguf", tmp_path)
        assert b"bad\\udcff.gguf: has no MTP head to take" in done.stderr
        for _ in range(2):  # the second run finds everything done
            done = shell(f"mtpgraft audit '{folder}'/bad*.gguf --out c.jsonl", tmp_path)
            assert (done.returncode, b"1 targets, 1 models" in done.stdout) == (0, True), done
        shutil.copy(DONOR, os.fsencode(folder) + b"/donor\xff.gguf")
        done = shell(f"mtpgraft graft '{folder}/bäse.gguf' '{folder}'/donor*.gguf -o out.gguf", tmp_path)
        assert done.returncode == 0, done.stderr


def test_no_escape_codes_in_a_pipe(tmp_path: Path) -> None:
    for args in (f"audit {DONOR} -v", f"inspect {DONOR} -v", f"graft {BASE} {DONOR} -o out.gguf --force", "--help"):
        done = shell(f"mtpgraft {args}", tmp_path, TERM="xterm-256color", COLUMNS="40")
        assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    make_big_base(tmp_path / "base.gguf", 300 * 2**20, 4)
    process = subprocess.Popen(
        [*HERE, "graft", "base.gguf", str(DONOR), "-o", "out.gguf"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not any(path.name.endswith("mtpgraft-tmp") for path in tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err == "mtpgraft: interrupted; no model was changed\n"
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]


def test_swapped_and_forgotten_arguments(tmp_path: Path) -> None:
    run = InProcess()
    sidecar = TRAINED / "mtp-q8_0.gguf"
    for args, says in (
        ((DONOR, BASE, "-o", tmp_path / "x.gguf"), "the base comes first"),
        ((sidecar, DONOR, "-o", tmp_path / "x.gguf"), "the base comes first"),
        ((DONOR, DONOR, "-o", tmp_path / "x.gguf"), "--replace"),
        ((BASE, DONOR), "found neither"),
        ((BASE, DONOR, "-o", tmp_path / "x.gguf", "--in-place"), "found both"),
    ):
        assert says in run("graft", *args, expect=2).stderr
    shown = run("inspect", BASE).stdout
    assert f"mtpgraft audit {BASE}" in shown
    assert "what mends it" not in run("inspect", DONOR).stdout
    assert "with its unit: 24G" in run("plan", DONOR, "--vram", "24", expect=2).stderr


def test_a_mistyped_path_that_looks_like_a_repo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    spec = parse_spec("models/nothing")
    assert isinstance(spec, HubSpec)
    with pytest.raises(TransientError, match="no such path here, and the Hub does not answer"):
        open_repo(spec, FAST)


def test_sizes() -> None:
    for text in ("1536M", "1.5G", "1.5GB", "1.5GiB", "1.5g", "1610612736", "1610612736B"):
        assert parse_size(text) == 1536 * 2**20
    assert parse_size("0", least_nbytes=0) == 0
    for text in ("", "G", "-1G", "soon", "1.2.3", "0", "1e3", "24X", "١G"):
        with pytest.raises(UsageError, match="not a size"):
            parse_size(text)
    with pytest.raises(UsageError) as caught:
        parse_size("24", least_nbytes=2**20)
    assert caught.value.hint == "with its unit: 24G"


def test_the_advice_for_one_model_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    shutil.copy(BASE, folder / "a b.gguf")
    shutil.copy(DONOR, folder)
    program = Program(tmp_path)
    shown = program("audit", "my models/a b.gguf", expect=1).stdout
    fix = next(line for line in shown.splitlines() if line.startswith("  fix ")).removeprefix("  fix ").strip()
    assert fix == "mtpgraft repair 'my models/a b.gguf' -o 'my models/a b-MTP.gguf'"
    assert shell(fix, tmp_path).returncode == 0
    shown = program("audit", "my models/a b-MTP.gguf").stdout
    assert "  run   llama-server -m 'my models/a b-MTP.gguf' --spec-type draft-mtp" in shown
    assert "fix" not in program("audit", "my models", expect=1).stdout
    shutil.copy(BASE, folder / "c.gguf")
    card = program("audit", "my models", "--markdown", expect=1).stdout
    assert card.count("- MTP010 the head was dropped") == 1
    assert "**a b.gguf, c.gguf**" in card
    assert "| a b-MTP.gguf | 1 block: 8 Q8_0, 7 F32 | ok |" in card
    assert "--spec-type draft-mtp" in card


def test_every_command_in_an_advice_is_one(tmp_path: Path) -> None:
    """What stands in a fix behind `mtpgraft` is a command, and nothing follows it."""
    from mtpgraft.audit.build import finding
    from mtpgraft.audit.rules import RULES

    helps = {name: InProcess()(name, "--help").stdout for name in ("repair", "graft", "strip", "bench", "extract")}
    for rule in RULES:
        fix = finding(rule, "m.gguf", "", "").fix
        before, found, command = fix.partition("mtpgraft ")
        if not found:
            continue
        assert not before or before.endswith(": "), fix
        name, *words = command.split()
        options = [word for word in words if word.startswith("-")]
        assert all(option in helps[name] for option in options), fix
        plain = [word for word in words if not word.startswith("-")]
        n_values = sum(option in ("-o", "--donor", "--as") for option in options)
        assert len(plain) - n_values == (2 if name == "graft" else 1), fix
        assert "{" not in fix + finding(rule, "m.gguf", "", "").consequence or rule.id == "MTP081"


def test_names_of_mended_files(tmp_path: Path) -> None:
    assert mended_name("models/x-Q4_K_M.gguf") == "x-Q4_K_M-MTP.gguf"
    assert mended_name("models/x-00001-of-00003.gguf") == "x-MTP.gguf"
    assert mended_name("hf:org/repo:Q4_K_M") == "repo-Q4_K_M-MTP.gguf"
    assert mended_name(r"C:\models\x.gguf") == "x-MTP.gguf"
    split = tmp_path / "set"
    split.mkdir()
    shutil.copy(BASE, split / "x.gguf")
    shutil.copy(DONOR, tmp_path)
    done = InProcess()("repair", split, "--donor", DONOR, "--no-smoke", "--json")
    assert json.loads(done.stdout)["plan"]["outputs"][0]["path"] == str(split / "x-MTP.gguf")
    assert (split / "x-MTP.gguf").exists()


def test_a_sidecar_beside_a_headless_model_is_mentioned(tmp_path: Path) -> None:
    shutil.copy(BASE, tmp_path / "model.gguf")
    shutil.copy(TRAINED / "mtp-q8_0.gguf", tmp_path / "mtp-model.gguf")
    (result,) = audit(tmp_path / "model.gguf")
    assert result.verdict.value == "dropped"
    note = next(found for found in result.findings if found.rule.id == "MTP017")
    assert f"-md {tmp_path / 'mtp-model.gguf'}" in note.consequence
    shutil.copy(TINY / "qwen35" / "mtp.gguf", tmp_path / "mtp-model.gguf")  # of another width
    (result,) = audit(str(tmp_path / "model.gguf"))
    assert [found.rule.id for found in result.findings] == ["MTP010"]


def test_sarif_has_a_place_and_a_fingerprint_for_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    for name in ("dropped", "orphan"):
        broken.write(tmp_path / "a b", name)
    run = InProcess()
    first, second = (run("audit", target, "--sarif", "--exit-zero").stdout for target in (".", "./a b"))
    results = json.loads(first)["runs"][0]["results"]
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert {place["artifactLocation"]["uri"] for place in places} == {"a%20b/dropped.gguf", "a%20b/orphan.gguf"}
    assert all(place["region"] == {"startLine": 1} for place in places)
    assert len({result["partialFingerprints"]["model/v1"] for result in results}) == 2
    assert json.loads(second)["runs"][0]["results"] == results


def test_a_census_says_what_it_does_not_do(tmp_path: Path) -> None:
    for option in (["--json"], ["--markdown"], ["--sarif"], ["--exit-zero"], ["--fail-on", "dropped"]):
        done = InProcess()("audit", BASE, "--out", tmp_path / "c.jsonl", *option, expect=2)
        assert f"mtpgraft report {tmp_path / 'c.jsonl'} --json" in done.stderr
    assert not (tmp_path / "c.jsonl").exists()
