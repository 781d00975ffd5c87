"""A systemd unit and its environment file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SPECIAL = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "%": "%%", "$": "$$"}
"""systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers"."""


@dataclass(frozen=True, slots=True)
class UnitFiles:
    """Both files, by the names they are installed under."""

    unit_name: str
    unit: str
    environment_name: str
    environment: str


def unit_files(name: str, title: str, program: str, arguments: Sequence[str]) -> UnitFiles:
    """A unit `llama-server-NAME.service` and what it reads its environment from. program: an absolute path."""
    unit_name, environment_name = f"llama-server-{name}.service", f"llama-server-{name}.env"
    command = " \\\n    ".join(_grouped([quoted(program), *map(quoted, arguments)]))
    unit = f"""\
# Made by mtpgraft plan. To install it:
#   sudo install -m 644 {unit_name} /etc/systemd/system/
#   sudo install -m 600 {environment_name} /etc/
#   sudo systemctl daemon-reload && sudo systemctl enable --now {unit_name}
[Unit]
Description={_one_line(title)}
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
EnvironmentFile=-/etc/{environment_name}
ExecStart={command}
Restart=on-failure
RestartSec=5
TimeoutStartSec=900
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""
    environment = f"""\
# Environment of {unit_name}, read by systemd: NAME=value, one a line.
# GPUs that the server may use, by number; all of them when left out.
#CUDA_VISIBLE_DEVICES=0
# Whoever asks the server must then send this key.
#LLAMA_API_KEY=
# A token for models that are fetched from the Hub.
#HF_TOKEN=
"""
    return UnitFiles(unit_name, unit, environment_name, environment)


def quoted(text: str) -> str:
    """One argument of an ExecStart line: what systemd would expand or split is escaped."""
    escaped = "".join(_SPECIAL.get(char, char) for char in text)
    plain = escaped == text and text and not any(char.isspace() or char in "';" for char in text)
    return text if plain else f'"{escaped}"'


def _grouped(words: list[str]) -> list[str]:
    """The program, then one option a line with its values."""
    lines = [words[0]]
    for word in words[1:]:
        if word.startswith("-") or len(lines) == 1:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).replace("%", "%%")
