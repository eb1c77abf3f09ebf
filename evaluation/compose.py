"""The config of a command line, as `experiments.run` would compose it: ``conf/score.yaml``, the
choices of metrics that it names, and settings.

    metric=NAME, metric=[A,B]    choices: files of metric/ in conf or in a folder of one's own
    KEY=VALUE                    sets what there is
    +KEY=VALUE                   adds what there is not; ++KEY=VALUE does either

A value is written as for Hydra: a text with brackets, braces, commas or quotes in it is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, Node, OmegaConf, open_dict
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException
from omegaconf.grammar_parser import parse
from omegaconf.grammar_visitor import GrammarVisitor

from asyndm.errors import UserError, read_first_line
from evaluation.choices import CONF
from evaluation.messages import did_you_mean

SETTING = re.compile(r"(\+{0,2})([A-Za-z_][^=~+]*)=(.*)", re.DOTALL)
REMOVAL = re.compile(r"~([A-Za-z_][^=~+]*)")
QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """A setting as it was given; `sign` is "", "+", "++" or "~", which takes it out."""

    text: str
    sign: str
    key: str
    value: object


def compose(given: Sequence[str], config_dirs: Sequence[Path] = ()) -> dict[str, object]:
    """``conf/score.yaml`` with these settings, later ones over earlier ones, as plain values.

    Args:
        given: settings of the command line.
        config_dirs: folders of the caller's own choices, beside ``conf``, whose names come first.

    Raises:
        UserError: no such choice, setting or folder, or a text that cannot be read.
    """
    config = OmegaConf.load(CONF / "score.yaml")
    assert isinstance(config, DictConfig)
    settings = [read_setting(text) for text in given]
    chosen: object = config.metric
    for setting in settings:
        if setting.key == "metric" and not isinstance(setting.value, Mapping):
            chosen = [] if setting.sign == "~" else setting.value
    config.metric = {}
    for name in chosen if isinstance(chosen, list) else [chosen]:
        config.metric.merge_with(_load_choice(name, (CONF, *config_dirs)))
    for setting in settings:
        if setting.key != "metric" or isinstance(setting.value, Mapping):
            _apply(config, setting)
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        raise UserError(
            f"{error.full_key}: {read_first_line(error)}; if a text with ${{ is meant, write \\${{"
        ) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def read_setting(text: str) -> Setting:
    """A setting of a command line.

    Raises:
        UserError: none, or a value that is none.
    """
    if removed := REMOVAL.fullmatch(text):
        return Setting(text, "~", removed[1], None)
    found = SETTING.fullmatch(text)
    if found is None:
        raise UserError(f"{text}: no setting; give NAME=VALUE")
    sign, key, value = found.groups()
    try:
        return Setting(text, sign, key, _read_value(value))
    except GrammarParseError as error:
        if key == "metric" and re.fullmatch(r"[\w,]+", value):
            raise UserError(f"{text}: several metrics are a list: metric=[{value}]") from error
        raise UserError(explain_unreadable(text, read_first_line(error))) from error


def _read_value(text: str) -> object:
    if not text:
        return ""
    if "${" in text:  # a text until all settings are there: OmegaConf resolves it then
        quoted = QUOTED.fullmatch(text)
        value: object = text if quoted is None else re.sub(r"\\([\"'])", r"\1", quoted[2])
        OmegaConf.create({"value": value})
        return value
    tree = parse(text, parser_rule="singleElement", lexer_mode="VALUE_MODE")
    return GrammarVisitor(_refuse, _refuse, memo=None).visit(tree)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a value without ${ refers to nothing")


def explain_unreadable(setting: str, reason: str) -> str:
    """What is wrong with a setting that the grammar does not read, in one line."""
    key, equal, value = setting.partition("=")
    if not equal:
        return f"{setting}: no setting; give NAME=VALUE"
    quoted = value.strip("'\"").replace('"', '\\"').replace("${", "\\${")
    return (
        f"{setting}: cannot be read ({reason.splitlines()[0]}); "
        f"if it is a text, quote it: '{key}=\"{quoted}\"'"
    )


def _load_choice(choice: object, folders: Sequence[Path]) -> DictConfig:
    """What the file of a choice says. Names are looked up, never made into a path: ``..`` leads
    nowhere."""
    name = "null" if choice is None else str(choice)
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
        for path in sorted(folder.glob("metric/*.yaml")):
            files.setdefault(path.stem, path)
    if name not in files:
        raise UserError(
            f"metric={name}: no such choice{did_you_mean(name, files)}; choose from "
            f"{', '.join(sorted(files))}"
        )
    try:
        content = OmegaConf.load(files[name])
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{files[name]}: not a choice ({read_first_line(error, 'no YAML')})"
        ) from error
    if not isinstance(content, DictConfig) or "defaults" in content:
        raise UserError(f"{files[name]}: not a choice (a mapping of metrics, without defaults)")
    return content


def _apply(config: DictConfig, setting: Setting) -> None:
    known = [key for key, _ in list_settings(config)]
    top = setting.key.partition(".")[0]
    if setting.key not in known and (setting.sign in ("", "~") or top not in config):
        parent = setting.key.rpartition(".")[0]
        there = [key for key in known if key.rpartition(".")[0] == parent] or list(config)
        raise UserError(
            f"{setting.key}: no such setting{did_you_mean(setting.key, known)}; choose from "
            f"{', '.join(map(str, there))}"
        )
    if setting.sign == "+" and setting.key in known:
        raise UserError(f"{setting.text}: is there already; give it without the +")
    if setting.sign == "~":
        parent, _, name = setting.key.rpartition(".")
        holder = OmegaConf.select(config, parent) if parent else config
        with open_dict(holder):
            del holder[name]
        return
    try:
        OmegaConf.update(config, setting.key, setting.value, merge=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{setting.text}: {read_first_line(error)}") from error


def list_settings(config: DictConfig, before: str = "") -> Iterator[tuple[str, Node]]:
    """The keys of a config with dots, at every depth, and what they are set to; Hydra's own are
    left out."""
    if config._is_none() or config._is_missing() or config._is_interpolation():
        return
    for key in config:
        node, name = config._get_node(key), f"{before}{key!s}"
        if isinstance(node, Node) and name != "hydra":
            yield name, node
            if isinstance(node, DictConfig):
                yield from list_settings(node, f"{name}.")
