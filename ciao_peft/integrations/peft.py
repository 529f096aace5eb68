"""What peft needs to say what our folders are: importing this module tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ..errors import BackboneError, quoted
from ..presets import over_paper

__all__ = ["CIAOPeftConfig"]


@dataclass(init=False)
class CIAOPeftConfig(PeftConfig):
    """What `peft.PeftConfig.from_pretrained` returns for a folder of ours: its kind, its backbone and its settings.

    Args:
        **record: Content of an `adapter_config.json`.

    Attributes:
        settings: Those of `CIAOConfig`.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
        >>> said = PeftConfig.from_pretrained(folder)
        >>> said.peft_type, said.base_model_name_or_path, said.settings["problem_type"]
        ('CIAO', 'small-face', 'regression')
    """

    settings: dict[str, Any] = field(default_factory=dict)

    def __init__(self, **record: Any) -> None:
        super().__init__(
            base_model_name_or_path=record.get("base_model_name_or_path"),
            revision=record.get("revision"),
            inference_mode=True,
        )
        self.peft_type: Any = "CIAO"
        self.settings = over_paper(record.get("config") or {})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: this is what `PeftModel.from_pretrained` calls, and peft's models have no such adapter.

        Args:
            pretrained_model_name_or_path: The folder.
            args, kwargs: As in peft.

        Raises:
            BackboneError: always; it says what loads the folder.
        """
        source = quoted(str(pretrained_model_name_or_path))
        raise BackboneError(
            f"{source} holds an adapter of ciao_peft, which masks a ConvNet and is no layer of peft. Load it with "
            f"`ciao_peft.AutoCIAOModel.from_pretrained({source})`."
        )


PEFT_TYPE_TO_CONFIG_MAPPING["CIAO"] = CIAOPeftConfig  # pyright: ignore[reportArgumentType]
