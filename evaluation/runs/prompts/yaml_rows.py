"""The entries of a YAML list, one after another: fast, and in memory that follows the length of the
file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.reader import Reader

from asyndm.errors import UserError, read_first_line

DEPTH = 50
"""How far lists and mappings may lie in each other."""
SPARE, PER_CHARACTER = 100_000, 4
"""How many nodes aliases may stand for: of a file without any there are no more than characters."""


class TooMuch(ValueError):
    """What no list of prompts says."""


Fast: Any = getattr(yaml, "CSafeLoader", None)
Base: Any = yaml.SafeLoader if Fast is None else type("Base", (Composer, Fast), {})


class Loader(Base):  # type: ignore[misc]
    """A loader of one entry at a time. libyaml only parses: its own composer would overrun the
    stack in lists in lists.

    Attributes:
        at: the line on which the current entry begins.
    """

    def __init__(self, text: str) -> None:
        (Fast or yaml.SafeLoader).__init__(self, text)
        Composer.__init__(self)
        self.at, self._level = 1, 0
        self._room = SPARE + PER_CHARACTER * len(text)
        self._known: dict[int, tuple[int, int]] = {}

    def entries(self) -> Iterator[tuple[int, Any]]:
        """Each with its line.

        Raises:
            TooMuch: no list, lists in lists in lists, or aliases that stand for more than the file
                could.
            yaml.YAMLError, ValueError: not YAML.
        """
        self.get_event()
        if not self.check_event(yaml.DocumentStartEvent):
            raise TooMuch("expected a list of prompts")
        self.get_event()
        if not self.check_event(yaml.SequenceStartEvent):
            raise TooMuch("expected a list of prompts")
        self.get_event()
        while not self.check_event(yaml.SequenceEndEvent):
            self.at = self.peek_event().start_mark.line + 1
            node = self.compose_node(None, None)
            if self.anchors:
                self._known.clear()
                self._room -= self._measure(node, 0)[0]
                if self._room < 0:
                    raise TooMuch("its aliases stand for too much; write out what they stand for")
            yield self.at, self.construct_document(node)
        self.get_event()
        self.get_event()
        if not self.check_event(yaml.StreamEndEvent):
            self.at = self.peek_event().start_mark.line + 1
            raise TooMuch("a second document; keep one list in a file")

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As a composer's, but not without end."""
        if self._level > DEPTH:
            raise TooMuch("not a list of prompts (lists in lists in lists)")
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def _measure(self, node: Any, level: int) -> tuple[int, int]:
        """How many nodes this one stands for, all aliases written out, and how far they lie in each
        other."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if (known := self._known.get(id(node))) is None:
            if level > DEPTH:  # of an alias within what it stands for there is no end
                raise TooMuch("not a list of prompts (lists in lists in lists)")
            pairs = (
                node.value
                if isinstance(node, yaml.MappingNode)
                else [(item,) for item in node.value]
            )
            inner = [self._measure(part, level + 1) for pair in pairs for part in pair]
            known = (
                1 + sum(size for size, _ in inner),
                1 + max((depth for _, depth in inner), default=0),
            )
            self._known[id(node)] = known
        if known[1] + level > DEPTH:
            raise TooMuch("not a list of prompts (lists in lists in lists)")
        return known


def read_yaml_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The entries of a YAML list, each with the line it begins on.

    Raises:
        UserError: not YAML or no list, with its line.
    """
    if control := Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(f"{path}, line {line}: not YAML (the control character {control[0]!r})")
    loader = Loader(text)
    try:
        yield from loader.entries()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else loader.at
        raise UserError(f"{path}, line {line}: not YAML ({error.problem})") from error
    except TooMuch as error:
        raise UserError(f"{path}, line {loader.at}: {error}") from error
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        why = read_first_line(error)
        raise UserError(f"{path}, line {loader.at}: not YAML ({why})") from error
