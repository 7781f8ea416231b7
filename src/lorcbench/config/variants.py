"""The name of a conf file with changes spelled behind it, as a value: ``zq_local+iterations=128+lr=5e-05``."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Variant:
    """A name that paths, tables and tags carry, taken apart. It is not checked against the conf files.

    Attributes:
        stem: the conf file's own name.
        settings: what the name changes, as (key, value) pairs in their order; values stay as they are spelled.
    """

    stem: str
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant that is spelled `text`; ``str`` gives the same text back.

        Raises:
            ValueError: a change without ``=``.
        """
        stem, *changes = text.split("+")
        if wrong := next((change for change in changes if "=" not in change), None):
            raise ValueError(f"{text!r}: expected {stem}+key=value, not {wrong!r}")
        return cls(stem, tuple(tuple(change.split("=", 1)) for change in changes))

    def __str__(self) -> str:
        return "+".join([self.stem, *(f"{key}={value}" for key, value in self.settings)])

    def setting(self, key: str) -> str | None:
        """The value that the name gives for `key`, or None if it says nothing of it."""
        return dict(self.settings).get(key)

    def without(self, key: str) -> Variant:
        """The variant that says nothing of `key`."""
        return replace(self, settings=tuple(pair for pair in self.settings if pair[0] != key))
