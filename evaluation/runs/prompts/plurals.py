"""Names as prompts say them: the plurals of English nouns, and where a text names one of a list."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from asyndm.words import SAME, Span, normalise

LINKS = re.compile("of|on|in|at|with|without|by|under|over|near|from|to|for|up|and|or")
"""In "glass of water" the noun that has a plural stands before the link."""
AFTER = re.compile(
    "general|martial|laureate|elect|designate|emeritus|royal|regent|errant|apparent|public|major"
)
"""In "court martial" as well."""
BOTH = re.compile("(?:gentle|wo)?man")
"""In "woman doctor" both nouns have a plural."""
ENDINGS = {
    "man": ("men",),
    "child": ("children",),
    "person": ("people", "persons"),
    "mouse": ("mice", "mouses"),
    "tooth": ("teeth",),
    "foot": ("feet",),
}
"""Nouns, also as the end of others ("snowman", "dormouse"), and their plurals."""
NO_MEN = re.compile(
    "(?:super|sub|non|trans)?human|german|roman|norman|ottoman|shaman|talisman|caiman|cayman"
    "|doberman|brahman|walkman|oman|ataman|hetman|dragoman|mussulman|turkoman|pacman"
)
OWN = {
    "goose": ("geese",),
    "louse": ("lice",),
    "woodlouse": ("woodlice",),
    "ox": ("oxen",),
    "muskox": ("muskoxen",),
    "die": ("dice",),
    "passerby": ("passersby",),
    "manservant": ("menservants",),
}
ALSO = {
    "bus": "busses",
    "gas": "gasses",
    "staff": "staves",
    "pelvis": "pelves",
    "penny": "pence",
    "money": "monies",
    "turf": "turves",
    "genus": "genera",
    "corpus": "corpora",
    "cherub": "cherubim",
    "seraph": "seraphim",
}
"""Plurals beside the regular one."""
LEARNED = {
    "us i": "cactus fungus octopus hippopotamus nucleus alumnus stimulus radius syllabus focus "
    "bacillus terminus abacus locus papyrus sarcophagus gladiolus stylus colossus incubus magus "
    "torus thesaurus narcissus eucalyptus crocus cumulus calculus modulus",
    "um a": "bacterium datum medium stadium aquarium terrarium planetarium gymnasium auditorium "
    "symposium emporium cranium podium millennium curriculum memorandum addendum stratum erratum "
    "ovum spectrum candelabrum",
    "on a": "phenomenon criterion ganglion automaton polyhedron mitochondrion",
    "a ae": "larva pupa antenna nebula alga formula vertebra nova supernova alumna amoeba medusa",
    "ex ices": "index vertex vortex apex codex cortex",
    "ix ices": "matrix appendix helix",
    "a ata": "stigma schema stoma",
    "x ges": "larynx pharynx phalanx syrinx",
    "o i": "paparazzo graffito libretto virtuoso biscotto panino",
}
"""Endings of Latin, Greek and Italian, and the nouns that may keep them beside the regular plural.
"""
for _endings, _nouns in LEARNED.items():
    _one, _many = _endings.split()
    ALSO |= {noun: noun.removesuffix(_one) + _many for noun in _nouns.split()}
SES = re.compile(r"(?!chassis|taxis)(.+[sx])is")
"""Thesis, axis."""
VES = re.compile(
    r"(.*(?:kni|wi|li|lea|loa|cal|el|hal|wol|thie|shea|scar|hoo|dwar|whar|kerchie))f(e?)"
)
REGULAR_AS_WELL = ("scarf", "hoof", "dwarf", "wharf", "life", "kerchief")


def list_forms(name: str) -> set[str]:
    """A name and its plurals: "traffic light", "traffic lights". Those that do not change (sheep)
    are the name itself."""
    words = unicodedata.normalize("NFC", name).translate(SAME).lower().split()
    return {name, *_pluralize_within(words, " ", _pluralize_compound)}


def _pluralize_compound(noun: str) -> set[str]:
    """The plurals of a noun that may be made of several: "hot-dogs"; "mothers-in-law" as well as
    "mother-in-laws"."""
    return _pluralize_within(noun.split("-"), "-", _pluralize_noun)


def _pluralize_within(words: list[str], joint: str, plurals: Callable[[str], set[str]]) -> set[str]:
    """Several words as one, with the plural of the last, or of the one before a link or an
    adjective."""
    link = next((i for i in range(1, len(words)) if LINKS.fullmatch(words[i])), len(words))
    if link == len(words) > 1:
        if AFTER.fullmatch(words[-1]):
            link -= 1
        elif BOTH.fullmatch(words[0]):
            several = _pluralize_within(words[1:], joint, plurals)
            return {
                joint.join([first, more]) for first in plurals(words[0]) for more in several
            } | {joint.join([words[0], more]) for more in several}
    return {
        joint.join([*words[:i], plural, *words[i + 1 :]])
        for i in {link - 1, len(words) - 1}
        for plural in plurals(words[i])
    }


def _pluralize_noun(noun: str) -> set[str]:
    """The plurals of one noun, in small letters."""
    if len(noun) < 2 or not unicodedata.name(noun[-1], "").startswith("LATIN"):
        return set()
    if noun in OWN:
        return set(OWN[noun])
    for ending, plurals in ENDINGS.items():
        if noun.endswith(ending) and not NO_MEN.fullmatch(noun):
            return {noun.removesuffix(ending) + plural for plural in plurals}
    if ves := VES.fullmatch(noun):
        # not also "knifes", "wolfs", "leafs": these are verbs
        return {ves[1] + "ves"} | ({noun + "s"} if noun.endswith(REGULAR_AS_WELL) else set())
    if ses := SES.fullmatch(noun):
        return {ses[1] + "es"}
    return _pluralize_regular(noun) | ({ALSO[noun]} if noun in ALSO else set())


def _pluralize_regular(noun: str) -> set[str]:
    """The plural by rule, or both where it takes knowing the word ("pianos", "potatoes";
    "stomachs", "beaches")."""
    if noun.endswith("z"):
        return {noun + "es", noun + "zes"}
    if noun.endswith(("s", "x", "sh")):
        return {noun + "es"}
    if noun.endswith("ch"):
        return {noun + "es", noun + "s"}
    if re.search(r"(?:[^aeiou]|qu)y$", noun):
        return {noun[:-1] + "ies", noun + "s"}  # two Marys
    if re.search(r".{2}[^aeiou]o$", noun):
        return {noun + "es", noun + "s"}
    return {noun + "s", noun + "x"} if noun.endswith("eau") else {noun + "s"}


def find_mentions(text: str, spellings: Iterable[str], before: str = "") -> list[tuple[Span, Span]]:
    """Where a text has one of several words, of those that overlap the longest: with what is before
    it, and alone.

    Args:
        text: where to look.
        spellings: the words, in all their forms.
        before: a pattern of what belongs to a mention before the word, in small letters; it must
            match nothing as well.
    """
    reading, lead = normalise(text), re.compile(rf"(?<!\w){before}\Z")
    candidates = []
    for start, end in {place for spelling in spellings for place in reading.find(spelling)}:
        led = lead.search(reading.text, 0, start)
        candidates.append((led.start() if led else start, -end, start))
    found, last = [], 0
    for first, minus_end, start in sorted(candidates):
        if start >= last:
            whole = reading.original_span(first if first >= last else start, -minus_end)
            found.append((whole, reading.original_span(start, -minus_end)))
            last = -minus_end
    return found
