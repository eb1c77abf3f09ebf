"""Keeps what Hydra read and merged of the files of ``conf/``.

Hydra reads and merges some thirty files whenever it composes: twice before a run, once more for
each job of a sweep. What comes out, before settings are set on it, depends on the choices of groups
and on the files alone. It is kept for each combination, as long as no file changes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import DefaultsList
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig

COMBINATIONS = 64
"""Of choices that are kept, those used last."""


@cache
def keep_merged_files() -> MergedFiles:
    """Has Hydra, in this process, read a file once and merge the same choices once. Returns what it
    keeps."""
    kept = MergedFiles()
    Plugins.instance()  # which registers what reads files
    reader: Any = SourcesRegistry.instance().resolve("file")
    module: Any = config_loader_impl
    loader: Any = module.ConfigLoaderImpl
    read, merge = reader.load_config, loader._compose_config_from_defaults_list

    @wraps(read)
    def read_file(source: ConfigSource, config_path: str) -> ConfigResult:
        path = os.path.join(source.path, source._normalize_file_name(config_path))
        return kept.read(partial(read, source, config_path), source.provider, path)

    @wraps(merge)
    def merge_files(own: Any, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        return kept.merge(partial(merge, own, repo=repo), defaults)

    reader.load_config = read_file
    loader._compose_config_from_defaults_list = merge_files
    module.create_defaults_list = partial(kept.choose, module.create_defaults_list)
    store: Any = ConfigStore.instance()  # the only one, of which Hydra would compose with a copy
    store.__deepcopy__ = lambda copied: store
    return kept


class MergedFiles:
    """Files as they were read, the files of each combination of choices, and what these are when
    merged."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], tuple[Hashable, ConfigResult]] = {}
        self._chosen: dict[Hashable, DefaultsList] = {}
        self._merged: dict[int, DictConfig] = {}

    def forget(self) -> None:
        """Keeps nothing of what was kept."""
        for kept in (self._read, self._chosen, self._merged):
            kept.clear()

    def read(self, read: Callable[[], ConfigResult], provider: str, path: str) -> ConfigResult:
        """What a file says, as it is now."""
        stamp = _stamp(path) if os.path.exists(path) else None
        before, result = self._read.get((provider, path), (None, None))
        if result is None or stamp != before:
            result = read()
            self._read[provider, path] = stamp, result
        return copy.deepcopy(result)

    def choose(
        self,
        choose: Callable[..., DefaultsList],
        repo: Any,
        config_name: str | None,
        overrides_list: list[Override],
        prepend_hydra: bool,
        skip_missing: bool,
    ) -> DefaultsList:
        """Which files are merged. Called as Hydra calls ``choose``."""
        choices: list[Override] = []
        settings: list[Override] = []
        for override in overrides_list:
            if not override.is_sweep_override():
                (choices if _is_choice(repo, override) else settings).append(override)
        names = tuple(override.input_line for override in choices)
        key = (config_name, prepend_hydra, names, *_stamp_files(repo))
        chosen = self._chosen.pop(key, None)
        if chosen is None:
            try:
                chosen = choose(repo, config_name, choices, prepend_hydra, skip_missing=False)
            except ConfigCompositionException:
                if not skip_missing:
                    raise
                return choose(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        self._chosen[key] = chosen
        while len(self._chosen) > COMBINATIONS:
            dropped = self._chosen.pop(next(iter(self._chosen)))
            self._merged.pop(id(dropped.defaults), None)
        return replace(chosen, config_overrides=settings)

    def merge(
        self, merge: Callable[[list[ResultDefault]], DictConfig], files: list[ResultDefault]
    ) -> DictConfig:
        """The config that these files make."""
        if not any(files is chosen.defaults for chosen in self._chosen.values()):
            return merge(files)
        if id(files) not in self._merged:
            self._merged[id(files)] = merge(files)
        return copy.deepcopy(self._merged[id(files)])


def _is_choice(repo: Any, override: Override) -> bool:
    """As Hydra decides it."""
    return not isinstance(override.value(), dict) and repo.group_exists(override.key_or_group)


def _stamp(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _stamp_files(repo: Any) -> Iterator[Hashable]:
    """Whence Hydra reads, and of each file there its size and when it was written."""
    for source in repo.get_sources():
        yield source.provider, source.scheme(), source.path
        if source.scheme() == "file":
            for folder, _, files in os.walk(source.path, followlinks=True):
                yield from (_stamp(os.path.join(folder, name)) for name in files)
