"""How onnxruntime is to run a file, beyond threads and providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Settings:
    """None leaves onnxruntime's own default.

    ``spinning`` lets idle threads wait busily, ``affinity`` pins threads (onnxruntime's
    ``session.intra_op_thread_affinities``) and ``arena`` keeps freed memory. ``device`` holds
    inputs and outputs on that device (``"cuda"``) between the copies from and to NumPy, at fixed
    addresses. ``provider_options`` are options of an execution provider by its name.
    """

    spinning: bool | None = None
    affinity: str | None = None
    arena: bool | None = None
    device: str | None = None
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Raises BadInput for a name that is none of the above."""
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise BadInput(f"onnxruntime has no setting {unknown[0]!r}; known are {known}.")
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """Those that were set, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    def apply(self, options: Any) -> None:
        """Set them on an ``onnxruntime.SessionOptions``."""
        if self.spinning is not None:
            for pool in ("intra", "inter"):
                entry = f"session.{pool}_op.allow_spinning"
                options.add_session_config_entry(entry, str(int(self.spinning)))
        if self.affinity is not None:
            options.add_session_config_entry("session.intra_op_thread_affinities", self.affinity)
        if self.arena is not None:
            options.enable_cpu_mem_arena = self.arena

    def of_providers(self, names: list[str]) -> list[Any]:
        """The names, each with its options where it has some."""
        options = self.provider_options
        return [(name, dict(options[name])) if name in options else name for name in names]
