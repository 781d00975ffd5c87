"""config.json of a checkpoint: the text model's part of it, with typed look-ups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtpgraft.errors import InvalidFileError
from mtpgraft.jsontext import Json

_MAX_COUNT = 2**31
_MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h @ b11434

# Where composite models keep the text model's config: ModelBase.load_hparams, conversion/base.py:1292-1306 @ b11434.
_TEXT_CONFIGS = ("text_config", "llm_config", "lm_config", "language_config")


@dataclass(frozen=True, slots=True)
class HfConfig:
    """file: what to name in errors. values: the top level with the text model's config laid over it."""

    file: str
    values: Mapping[str, Json] = field(repr=False)
    architectures: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint_name: str, config: Mapping[str, Json]) -> HfConfig:
        values = dict(config)
        names = _names(config.get("architectures"))
        for key in _TEXT_CONFIGS:
            nested = config.get(key)
            if isinstance(nested, dict):
                values.update(nested)
                names += _names(nested.get("architectures"))
        return cls(f"{checkpoint_name}/config.json", values, tuple(names))

    def get(self, *names: str) -> Json:
        """The first of these keys that is there, whatever its value; None when none is."""
        return next((self.values[name] for name in names if name in self.values), None)

    def count(self, *names: str) -> int:
        """The first of these keys as a count. Raises InvalidFileError when it is missing or no count."""
        value = self.count_or_none(*names)
        if value is None:
            raise InvalidFileError("lacks a number that the head needs", file=self.file, where=f"key {names[0]}")
        return value

    def count_or_none(self, *names: str) -> int | None:
        """Like `count`; None when none of the keys is there, or it is null."""
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_COUNT:
            where = f"key {next(name for name in names if name in self.values)}"
            raise InvalidFileError("is not a usable count", file=self.file, where=where, found=str(value)[:80])
        return value

    def number(self, name: str, default: float) -> float:
        """A number, or the default when the key is missing or null. Raises InvalidFileError for anything else."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidFileError("is not a number", file=self.file, where=f"key {name}", found=str(value)[:80])
        return float(value)

    def rotary_share(self, default: float) -> float:
        """The rotated share of a head's dimensions. Raises InvalidFileError when it is none."""
        share = self.table("rope_parameters", "rope_scaling").get("partial_rotary_factor")
        if share is None:
            share = self.number("partial_rotary_factor", default)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            where = "key partial_rotary_factor"
            raise InvalidFileError("is no share", file=self.file, where=where, expected="0 to 1", found=str(share)[:80])
        return share

    def texts(self, name: str) -> list[str] | None:
        """A list of strings, or None when the key is missing or something else."""
        value = self.values.get(name)
        return [str(item) for item in value] if isinstance(value, list) else None

    def table(self, *names: str) -> Mapping[str, Json]:
        """A nested object, or an empty one."""
        value = self.get(*names)
        return value if isinstance(value, dict) else {}

    @property
    def n_trunk(self) -> int:
        """Number of trunk blocks (TextModel.__init__, conversion/base.py:1358 @ b11434); Nemotron-H lists them.

        Raises InvalidFileError when it is missing, or more than llama.cpp has room for.
        """
        blocks = self.values.get("layers_block_type")
        names = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")
        n = len(blocks) if isinstance(blocks, list) and blocks else self.count(*names)
        if n > _MAX_BLOCKS:
            raise InvalidFileError(
                "has an impossible number of layers", file=self.file, expected=f"at most {_MAX_BLOCKS}", found=n
            )
        return n

    @property
    def declared(self) -> int | None:
        """Number of head blocks that the config declares, None when it says nothing."""
        return self.count_or_none("mtp_num_hidden_layers", "num_nextn_predict_layers")


def _names(value: Json) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
