"""The configs of many jobs, each as Hydra would compose it.

Hydra reads and merges some thirty files for every job. Which files these are depends on the choices
of groups alone: they are merged once for each combination of choices, and all other settings are
set on a copy, by Hydra's own code. Of choices that each change nothing but their own part of the
config, a combination is put together from these parts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, Node, OmegaConf

COMBINATIONS = 256
"""Of choices whose configs are kept."""


def find_loader() -> ConfigLoader:
    """What finds the files of ``conf/``, of the Hydra that is at work."""
    return GlobalHydra.instance().config_loader()


def parse_overrides(overrides: Iterable[str]) -> list[Override]:
    """Settings as they are given, ``glob`` with the choices that there are.

    Raises:
        OverrideParseException: one of them cannot be read.
    """
    return OverridesParser.create(config_loader=find_loader()).parse_overrides(list(overrides))


class Composer:
    """Composes jobs of one sweep.

    Args:
        config_name: the primary config.
        common: settings of all jobs beside their own, such as Hydra's.
    """

    def __init__(self, config_name: str = "config", common: Sequence[str] = ()) -> None:
        self._name, self._common = config_name, list(common)
        self._parse = cache(OverridesParser.create(config_loader=find_loader()).parse_override)
        self._merge = lru_cache(COMBINATIONS)(self._merge_files)
        self._base = lru_cache(COMBINATIONS)(self._combine)
        self._firsts: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._options = cache(self._find_options)

    def __call__(self, job: Sequence[str]) -> DictConfig:
        """The config of a job without Hydra's part.

        Raises:
            HydraException: there is no such choice or setting.
        """
        overrides = [self._parse(text) for text in job]
        choices = [override for override in overrides if self._is_choice(override)]
        settings = [override for override in overrides if not self._is_choice(override)]
        config = copy.deepcopy(self._base(*(str(override.input_line) for override in choices)))
        ConfigLoaderImpl._apply_overrides_to_config(settings, config)
        return config

    def _combine(self, *choices: str) -> DictConfig:
        """The config of a combination: that of the first one of these groups, with the parts that
        its other choices change alone."""
        groups = tuple(choice.partition("=")[0] for choice in choices)
        first = self._firsts.setdefault(groups, choices)
        changed = [i for i, choice in enumerate(choices) if choice != first[i]]
        if len(changed) < 2:
            return self._merge(*choices)
        config = copy.deepcopy(self._merge(*first))
        for i in changed:
            other = self._merge(*first[:i], choices[i], *first[i + 1 :])
            if groups[i] not in config or not _differ_in(groups[i], self._merge(*first), other):
                return self._merge(*choices)
            part = copy.deepcopy(other._get_node(groups[i]))
            assert isinstance(part, Node)
            part._set_parent(config)
            config.__dict__["_content"][groups[i]] = part
        return config

    def _merge_files(self, *choices: str) -> DictConfig:
        return compose(self._name, [*self._common, *choices])

    def _is_choice(self, override: Override) -> bool:
        """As Hydra decides it."""
        if override.is_hydra_override():
            return True
        return not isinstance(override.value(), dict) and bool(self._options(override.key_or_group))

    def _find_options(self, group: str) -> list[str]:
        return find_loader().get_group_options(group, ObjectType.CONFIG, self._name, self._common)


def _differ_in(group: str, one: DictConfig, other: DictConfig) -> bool:
    """Whether two configs are the same but for their part for a group."""
    first, second = (OmegaConf.to_container(config, resolve=False) for config in (one, other))
    assert isinstance(first, dict) and isinstance(second, dict)
    return first | {group: None} == second | {group: None}
