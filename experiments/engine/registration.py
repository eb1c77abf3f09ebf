"""What Hydra is told of ours: schema, launcher, resolvers. No heavy import."""

from __future__ import annotations

import logging
import sys
from functools import cache
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from experiments.engine.merged_files import keep_merged_files
from experiments.engine.resolvers import (
    choose_for_model,
    find_embedded,
    find_steps_within,
    name_checkpoint,
)
from experiments.engine.schema import OPEN, SCHEMAS, Config, Processes

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
"""Where Hydra finds our launcher, in our part of its package ``hydra_plugins``."""


def register() -> None:
    """Makes the schema, the launcher and the resolvers known to Hydra, in every process that
    composes or resolves a config. Hydra's log is read by nobody: what is wrong is raised as well.
    """
    if not (logger := logging.getLogger("hydra")).handlers:
        logger.addHandler(logging.NullHandler())
    if str(PLUGINS) not in sys.path:
        sys.path.append(str(PLUGINS))
    OmegaConf.register_new_resolver("embedded", find_embedded, replace=True)
    OmegaConf.register_new_resolver("checkpoint_name", name_checkpoint, replace=True)
    OmegaConf.register_new_resolver("steps_within", find_steps_within, replace=True)
    OmegaConf.register_new_resolver("for_model", choose_for_model, replace=True)
    keep_merged_files()
    _store_schemas()


@cache
def _store_schemas() -> None:
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    store.store(group="hydra/launcher", name="processes", node=Processes)
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            node = _open(schema) if group in OPEN else schema
            store.store(group=f"{group}/schema", name=name, node=node, package=group)


def _open(schema: type) -> DictConfig:
    """A schema's settings, typed as in it, beside which there may be others."""
    typed = OmegaConf.structured(schema)
    return DictConfig({name: typed._get_node(name) for name in typed})
