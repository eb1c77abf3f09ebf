from __future__ import annotations

import pytest

from asyndm.counts import count_things
from asyndm.errors import UserError
from asyndm.shapes import world
from asyndm.subjects import Subject

SAID = {
    "two [dogs]": 2,
    "Two DOGS, that is two [dogs]": 2,
    "three [red cubes]": 3,
    "three red [cubes]": 3,
    "three red cubes and blue [spheres]": 1,
    "two cats and a [dog]": 1,
    "two cats, [dogs]": 1,
    "a [cat] and two dogs": 1,
    "an owl and two black and white [cats]": 2,
    "two big, red [dogs]": 2,
    "two running [dogs]": 2,
    "two dogs chasing [cats]": 1,
    "two children playing [guitars]": 1,
    "the two [dogs]": 2,
    "two or three [dogs]": 3,
    "12 [eggs] in a box": 12,
    "12 eggs in a [box]": 1,
    "half a dozen [eggs]": 6,
    "a dozen [eggs]": 12,
    "a pair of red [vases]": 2,
    "a [pair of vases]": 2,
    "a pair of [scissors]": 1,
    "a couple of [dogs]": 2,
    "both [dogs]": 2,
    "[two dogs]": 2,
    "a [man with two dogs]": 1,
    "a [dog]": 1,
    "some [dogs]": 1,
    "one of the [dogs]": 1,
    "a two year old [dog]": 1,
    "a two-story [house]": 1,
    "a 1967 [mustang]": 1,
    "1967 [mustangs]": 1,
    "bus number 3 [driver]": 1,
    "zwei [Hunde]": 1,
}


@pytest.mark.parametrize("said", SAID)
def test_a_number_is_said_by_the_words_before(said: str) -> None:
    words = said[said.index("[") + 1 : said.index("]")]
    prompt = said.replace("[", "").replace("]", "")
    occurrence = prompt.count(words)
    assert count_things(prompt, Subject(words, occurrence=occurrence)) == SAID[said]


def test_a_number_that_is_stated_counts() -> None:
    assert count_things("two dogs", Subject("dogs", count=3)) == 3
    assert count_things("a cat", Subject("dogs")) == 1  # nowhere to be read
    for wrong in (0, 1.5, True):
        with pytest.raises(UserError, match="count of subject 'dogs' must be a whole number"):
            Subject("dogs", count=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", world.KINDS)
def test_the_words_of_shapes_prompts_say_what_the_world_knows(kind: str) -> None:
    specs = world.prompts("test", kind)
    for spec in specs:
        read = [count_things(spec.text, Subject(name)) for name in spec.subjects]
        assert read == [thing.count for thing in spec.things], spec.text
    assert specs
