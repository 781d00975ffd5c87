"""What a user may type where a model is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtpgraft.errors import InputError, UsageError
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, is_remote, parse_spec
from mtpgraft.source.hub_select import matches_quant, select_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.gguf", LocalSpec(Path("model.gguf"))),
        ("./org/repo", LocalSpec(Path("./org/repo"))),
        ("/models/a b.gguf", LocalSpec(Path("/models/a b.gguf"))),
        ("models/nothere.gguf", LocalSpec(Path("models/nothere.gguf"))),
        ("a/b/c", LocalSpec(Path("a/b/c"))),
        ("C:\\models\\m.gguf", LocalSpec(Path("C:\\models\\m.gguf"))),
        ("org/repo", HubSpec("org/repo", is_bare=True)),
        ("org/repo:Q4_K_M", HubSpec("org/repo", quant="Q4_K_M", is_bare=True)),
        ("org/repo:sub/x.gguf", HubSpec("org/repo", file="sub/x.gguf", is_bare=True)),
        ("org/repo@v1", HubSpec("org/repo", "v1", is_bare=True)),
        ("hf:org/repo", HubSpec("org/repo")),
        ("hf:gpt2", HubSpec("gpt2")),
        ("hf:org/repo:q8_0", HubSpec("org/repo", quant="q8_0")),
        ("hf:org/repo:a b.gguf", HubSpec("org/repo", file="a b.gguf")),
        ("hf:org/repo/x.gguf", HubSpec("org/repo", file="x.gguf")),
        ("hf:org/repo@refs/pr/3:UD-Q4_K_XL", HubSpec("org/repo", "refs/pr/3", quant="UD-Q4_K_XL")),
        (f"hf:org/repo@{COMMIT}:x.gguf", HubSpec("org/repo", COMMIT, file="x.gguf")),
        ("hf://org/repo/d/x.gguf", HubSpec("org/repo", file="d/x.gguf")),
        ("hf.co/org/repo:Q8_0", HubSpec("org/repo", quant="Q8_0")),
        ("huggingface.co/org/repo", HubSpec("org/repo")),
        ("https://huggingface.co/org/repo/", HubSpec("org/repo")),
        ("https://huggingface.co/org/repo/tree/main", HubSpec("org/repo")),
        (
            "https://huggingface.co/org/repo/resolve/main/a%20b.gguf?download=true",
            HubSpec("org/repo", file="a b.gguf"),
        ),
        ("https://hf.co/org/repo/blob/v2/d/x.gguf", HubSpec("org/repo", "v2", file="d/x.gguf")),
        ("https://huggingface.co/org/repo/resolve/refs/pr/1/x.gguf", HubSpec("org/repo", "refs/pr/1", file="x.gguf")),
        ("https://example.com/x.gguf?sig=1", UrlSpec("https://example.com/x.gguf?sig=1")),
        ("http://127.0.0.1:8080/x.gguf", UrlSpec("http://127.0.0.1:8080/x.gguf")),
    ],
)
def test_what_is_typed_and_what_it_means(text: str, expected: object) -> None:
    assert parse_spec(text) == expected
    assert is_remote(text) == (not isinstance(expected, LocalSpec))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf:",
        "hf:org/",
        "hf:../x",
        "http://example.com/x.gguf",
        "https://user:secret@example.com/x.gguf",
        "https://example.com",
        "https://huggingface.co/datasets/org/x",
        "https://huggingface.co/org/repo/tree/main/folder",
        "https://[broken/x.gguf",
    ],
)
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert "secret" not in str(caught.value)


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_spec("org/repo") == LocalSpec(Path("org/repo"))
    assert parse_spec("org/other") == HubSpec("org/other", is_bare=True)
    assert parse_spec(Path("org/other")) == LocalSpec(Path("org/other"))


def test_the_endpoint_of_the_environment_is_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:81/")
    assert parse_spec("http://mirror.example:81/org/repo/resolve/main/x.gguf") == HubSpec("org/repo", file="x.gguf")
    with pytest.raises(UsageError):
        parse_spec("http://mirror.example/org/repo/resolve/main/x.gguf")


@pytest.mark.parametrize(
    "spec",
    [HubSpec("o/r"), HubSpec("o/r", "v1", quant="Q8_0"), HubSpec("o/r", "refs/pr/3", file="d/x.gguf")],
)
def test_a_spec_written_out_means_itself(spec: HubSpec) -> None:
    assert parse_spec(str(spec)) == spec


FILES = [
    "README.md",
    "M-Q4_K_M.gguf",
    "M-Q4_K_S.gguf",
    "M-UD-Q4_K_XL.gguf",
    "M-q8_0.gguf",
    "mtp-M-IQ2_M.gguf",
    "M-IQ2_M.gguf",
    "mmproj-BF16.gguf",
    "imatrix_m.gguf",
    "BF16/M-00001-of-00002.gguf",
    "BF16/M-00002-of-00002.gguf",
    "Q6_K/M-Q6_K-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        ("Q4_K_M", ("M-Q4_K_M.gguf",)),
        ("q4_k_m", ("M-Q4_K_M.gguf",)),
        ("Q8_0", ("M-q8_0.gguf",)),
        ("UD-Q4_K_XL", ("M-UD-Q4_K_XL.gguf",)),
        ("Q4_K_XL", ("M-UD-Q4_K_XL.gguf",)),
        ("bf16", ("BF16/M-00001-of-00002.gguf", "BF16/M-00002-of-00002.gguf")),
    ],
)
def test_a_quant_finds_its_file(quant: str, expected: tuple[str, ...]) -> None:
    assert select_gguf(FILES, "hf:o/r", quant) == expected


@pytest.mark.parametrize(
    ("quant", "file", "says"),
    [
        (None, None, "several models"),
        ("IQ2_M", None, "mtp-M-IQ2_M.gguf"),
        ("Q4_K", None, "M-Q4_K_S.gguf"),
        ("Q6_K", None, "incomplete"),
        (None, "M-Q5_0.gguf", "M-Q4_K_M.gguf"),
    ],
)
def test_nothing_is_guessed(quant: str | None, file: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        select_gguf(FILES, "hf:o/r", quant, file)


def test_a_path_names_any_file_and_any_shard_its_set() -> None:
    assert select_gguf(FILES, "hf:o/r", file="mmproj-BF16.gguf") == ("mmproj-BF16.gguf",)
    both = ("BF16/M-00001-of-00002.gguf", "BF16/M-00002-of-00002.gguf")
    assert select_gguf(FILES, "hf:o/r", file=both[1]) == both


def test_the_only_model_needs_no_name() -> None:
    assert select_gguf(["a.gguf", "mmproj-a.gguf"], "hf:o/r") == ("a.gguf",)
    with pytest.raises(InputError, match="holds no GGUF"):
        select_gguf(["model.safetensors"], "hf:o/r")
    with pytest.raises(InputError, match="holds no GGUF"):
        select_gguf(["model.safetensors"], "hf:o/r", "Q8_0")


def test_a_quant_is_a_word() -> None:
    assert matches_quant("M-Q4_K.gguf", "q4_k")
    assert not matches_quant("M-Q4_K_M.gguf", "Q4_K")
    assert not matches_quant("M-IQ4_XS.gguf", "Q4_XS")
