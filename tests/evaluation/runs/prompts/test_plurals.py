"""Words of a list in the singular and plural, in any script."""

from __future__ import annotations

import pytest

from asyndm.subjects import find_span
from evaluation.runs.prompts.sets import Prompt
from evaluation.runs.prompts.subjects import WordList


@pytest.mark.fault(
    what="a word list with puppy, knife or mother-in-law, and prompts with several of them",
    kind="lists as people have them",
    now="plurals are found, irregular ones too; stares are no star",
)
@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["puppy", "dog"], "two puppies and a dog", ["puppies", "dog"]),
        (["knife", "person"], "three knives and people", ["knives", "people"]),
        (
            ["wolf", "leaf", "bookshelf"],
            "wolves, leaves, bookshelves",
            ["wolves", "leaves", "bookshelves"],
        ),
        (["man", "woman", "child"], "men, women and children", ["men", "women", "children"]),
        (
            ["snowman", "human", "fireman"],
            "snowmen, humans, Firemen",
            ["snowmen", "humans", "Firemen"],
        ),
        (["mouse", "goose", "mongoose"], "mice, geese, mongooses", ["mice", "geese", "mongooses"]),
        (
            ["foot", "tooth", "ox", "die"],
            "feet, teeth, oxen, dice",
            ["feet", "teeth", "oxen", "dice"],
        ),
        (["sheep", "fish", "deer"], "two sheep, fish, deer", ["sheep", "fish", "deer"]),
        (
            ["bus", "dish", "box", "church"],
            "buses dishes boxes churches",
            ["buses", "dishes", "boxes", "churches"],
        ),
        (["potato", "photo", "zoo"], "potatoes, photos, zoos", ["potatoes", "photos", "zoos"]),
        (
            ["monkey", "quiz", "stomach"],
            "monkeys, quizzes, stomachs",
            ["monkeys", "quizzes", "stomachs"],
        ),
        (["roof", "giraffe", "dwarf"], "roofs, giraffes, dwarfs", ["roofs", "giraffes", "dwarfs"]),
        (["cactus", "chateau"], "cacti, cactuses, chateaux", ["cacti", "cactuses", "chateaux"]),
        (["oasis", "axis", "taxis"], "oases, axes, taxes, taxis", ["oases", "axes", "taxis"]),
        (
            ["radius", "aquarium", "phenomenon"],
            "radii, aquaria, phenomena",
            ["radii", "aquaria", "phenomena"],
        ),
        (
            ["index", "helix", "formula"],
            "indices, helixes, formulae",
            ["indices", "helixes", "formulae"],
        ),
        (
            ["superhuman", "yeoman", "Oman"],
            "superhumans, yeomen, an omen",
            ["superhumans", "yeomen"],
        ),
        (
            ["mother-in-law", "runner-up"],
            "mothers-in-law, runners-up",
            ["mothers-in-law", "runners-up"],
        ),
        (
            ["computer mouse", "still life"],
            "computer mouses, still lifes",
            ["computer mouses", "still lifes"],
        ),
        (
            ["pick up truck", "cup of tea"],
            "pick up trucks, cups of tea",
            ["pick up trucks", "cups of tea"],
        ),
        (
            ["woodlouse", "blouse", "money"],
            "woodlice, blouses, monies",
            ["woodlice", "blouses", "monies"],
        ),
        (
            ["staff", "larynx", "phalanx", "pelvis"],
            "staves, larynges, phalanges, pelves",
            ["staves", "larynges", "phalanges", "pelves"],
        ),
        (
            ["attorney general", "court-martial", "poet laureate"],
            "attorneys general, courts-martial, poets laureate",
            ["attorneys general", "courts-martial", "poets laureate"],
        ),
        (
            ["woman doctor", "manservant"],
            "women doctors, menservants",
            ["women doctors", "menservants"],
        ),
        (["roman soldier", "general"], "roman soldiers, romen soldiers", ["roman soldiers"]),
        (["Mary", "puppy"], "two Marys, Mary's puppies", ["Marys", "Mary", "puppies"]),
        (["star"], "a man stares at a star", ["star"]),
        (["car", "can", "cap"], "cares, canes, capes, a can", ["can"]),
        (["bus", "bush"], "a bush, bushes, a buss, a bus", ["bush", "bushes", "bus"]),
        (["wolf", "loaf", "foot"], "he wolfs, loafs and foots", []),
        (["traffic light"], "two Traffic  Lights", ["Traffic  Lights"]),
        (["man on horse", "man"], "a man on horse, a man", ["man on horse", "man"]),
        (["glass of water"], "two glasses of water", ["glasses of water"]),
        (
            ["hot-dog", "caf\u00e9"],
            "hot\u2011dogs in cafe\u0301s",
            ["hot\u2011dogs", "cafe\u0301s"],
        ),
        (["猫"], "一只猫在草地上", ["猫"]),
        (["猫", "黑猫"], "一只黑猫和猫", ["黑猫", "猫"]),
        (["แมว", "หมา"], "แมวกับหมา", ["แมว", "หมา"]),
        (["고양이"], "고양이가 고양이와", ["고양이", "고양이"]),
    ],
)
def test_plurals_and_scripts_of_a_word_list(
    words: list[str], text: str, expected: list[str]
) -> None:
    chosen = WordList(words).choose(Prompt("p", text))
    assert [subject.text for subject in chosen.subjects] == expected
    places = [find_span(text, subject) for subject in chosen.subjects]
    assert places == sorted(places) and [text[start:end] for start, end in places] == expected
