"""peft's names for configs in folders: read from an adapter's folder, and written with it alone. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from .door import read_json
from .errors import ConfigError, quoted
from .presets import over_paper

__all__ = ["ConfigOfFolder"]

ConfigT = TypeVar("ConfigT", bound="ConfigOfFolder")


class ConfigOfFolder:
    """The part of `CIAOConfig` that knows an adapter's folder.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> issubclass(CIAOConfig, ConfigOfFolder)
        True
    """

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
        """Makes a config of plain data; see `CIAOConfig.from_dict`.

        Args:
            values: Settings by name.
        """
        return cls(**values)

    @classmethod
    def from_pretrained(cls: type[ConfigT], folder: str | os.PathLike[str]) -> ConfigT:
        """Reads the config of a saved adapter, without torch and without its weights.

        Args:
            folder: A folder that `CIAOModel.save_pretrained` wrote. `ciao_peft.hub.read_adapter` reads from the
                Hub and from stores.

        Raises:
            ConfigError: there is no such folder, or what is there is no adapter's config.

        Example:
            >>> import tempfile
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> CIAOConfig.from_pretrained(folder).num_labels
            2
        """
        if not os.path.isdir(folder):
            raise ConfigError(
                f"No folder {quoted(os.fspath(folder))}. From the Hub and from a store, "
                "`ciao_peft.hub.read_adapter(...)` reads an adapter with its `config`."
            )
        record: Any = read_json(os.path.join(folder, "adapter_config.json"), error=ConfigError)
        settings = record.get("config") if isinstance(record, dict) and record.get("peft_type") == "CIAO" else None
        if not isinstance(settings, dict):
            raise ConfigError(f"The adapter_config.json in {quoted(os.fspath(folder))} is of no adapter of ciao_peft.")
        return cls.from_dict(over_paper(settings))

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Always refuses: a config is saved with its adapter.

        Args:
            args, kwargs: As in peft.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "A config is saved with its adapter: `model.save_pretrained(folder)`. Alone it is plain data: "
            "`json.dumps(config.to_dict())`, and back `CIAOConfig.from_dict(json.loads(text))`."
        )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Always refuses: a config is published with its adapter.

        Args:
            args, kwargs: As in peft.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("A config is published with its adapter: `model.push_to_hub('user/name')`.")
