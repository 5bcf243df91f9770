"""The story grammar's words and sentence forms: the table that `stories.py` walks.

In a form `[x]` draws something new and `{x}` speaks of what the story already knows. `needs` and `lacks` say
when a form may stand, `adds` and `drops` what is the case afterwards. Facts: animal, pet (it has a name),
friend, near (a place one can go to), there (one is at the place), has and lost (the object). Long stories
have more to keep track of: gift (the friend's own thing), swapped (the object is the friend's and the gift
the person's), picked, fewer and fewest (how often some of what was picked went), noon and evening."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {
    "she": ["anna", "lily", "mia", "sara", "emma", "rosa", "nina", "ella", "clara", "ruth", "ivy", "lucy"],
    "he": ["tom", "ben", "max", "sam", "leo", "jack", "tim", "noah", "paul", "adam", "finn", "hugo"],
}

SOUNDS = {
    "dog": "barked", "cat": "meowed", "bird": "sang", "duck": "quacked", "pig": "oinked", "cow": "mooed",
    "horse": "neighed", "frog": "croaked", "sheep": "bleated", "owl": "hooted", "bee": "buzzed",
    "lion": "roared",
    "mouse": "squeaked", "wolf": "howled", "hen": "clucked", "snake": "hissed",
}  # fmt: skip

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven"]

# Drawn once, then the story keeps to it.
WORDS = {
    "gift": [
        "flower", "shell", "feather", "pebble", "ribbon", "marble", "whistle", "button", "candle",
        "acorn",
    ],
    "crop": ["plums", "pears", "nuts", "berries", "peaches", "apples", "cherries", "figs"],
    "number": NUMBERS[3:],
    "animal": list(SOUNDS),
    "pet": ["spot", "fluffy", "buddy", "coco", "lucky", "pepper", "daisy", "rex"],
    "color": ["red", "blue", "green", "yellow", "white", "black", "pink", "brown", "golden", "silver"],
    "object": [
        "ball", "kite", "hat", "book", "drum", "doll", "truck", "boat", "lamp", "cup", "key", "ring",
        "coat", "bell", "flag", "shoe", "map", "coin", "crown", "scarf",
    ],
    "place": [
        "park", "beach", "garden", "forest", "farm", "lake", "school", "market", "river", "zoo",
        "library", "castle", "village", "pond", "museum", "bakery",
    ],
}  # fmt: skip

# Drawn anew each time.
FREE_SLOTS = {
    "time": ["day", "morning", "afternoon", "evening"],
    "weather": ["sunny", "rainy", "windy", "snowy", "cloudy", "warm", "cold", "foggy"],
    "trait": ["kind", "brave", "shy", "clever", "funny", "gentle", "quiet", "curious", "lazy", "polite"],
    "good": ["happy", "glad", "proud", "excited", "cheerful", "calm", "thankful", "joyful"],
    "bad": ["sad", "upset", "worried", "lonely", "scared", "angry", "sorry", "gloomy"],
    "food": ["bread", "soup", "cake", "honey", "rice", "cheese", "pie", "jam", "fruit", "corn"],
    "family": ["mother", "father", "brother", "sister", "aunt", "uncle", "grandmother", "grandfather"],
    "adverb": ["loudly", "softly", "twice", "again"],
    "tale": ["long", "short", "secret", "strange", "silly", "sweet"],
    "job": ["doctor", "teacher", "farmer", "baker", "sailor", "pilot", "painter", "singer"],
    "thing": ["fence", "log", "puddle", "wall", "stone", "stream"],
    "drink": ["water", "milk", "tea", "juice"],
    "spot": [
        "under the bed", "behind the door", "in the grass", "near the tree",
        "under the bench", "behind the chair", "in the mud", "near the gate",
    ],
    "pair": ["new and shiny", "old and dusty", "big and heavy", "small and light"],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Form:
    """One sentence form: its words and slots, its weight, when it may stand, and what it changes."""

    parts: tuple[str, ...]
    weight: float
    needs: frozenset[str]
    lacks: frozenset[str]
    adds: frozenset[str]
    drops: frozenset[str]

    def after(self, facts: frozenset[str]) -> frozenset[str]:
        """Return what is the case once this sentence is said."""
        return facts - self.drops | self.adds


def _form(
    template: str, needs: str = "", lacks: str = "", adds: str = "", drops: str = "", weight: float = 1.0
) -> Form:
    parts = tuple(template.split())
    drawn = {p[1:-1] for p in parts if p[0] == "["} & {"animal", "pet", "friend"}
    words = [frozenset(text.split()) for text in (needs, lacks, adds, drops)]
    return Form(parts, weight, words[0], words[1] | drawn, words[2] | drawn | {"person"}, words[3])


OPENINGS = (
    _form("one [time] [name] went to the [place] .", adds="there", weight=3),
    _form("on a [weather] [time] [name] went to the [place] .", adds="there"),
    _form("once [name] had a [color] [object] .", adds="has", weight=2),
    _form("once [name] had a little [animal] .", weight=2),
    _form("once there was a [trait] {kid} named [name] .", weight=2),
    _form("long ago [name] lived near the [place] .", adds="near"),
    _form("once [name] and [friend] were good friends ."),
)

MIDDLES = (
    # places
    _form("{who} went to the [place] .", lacks="near there", adds="there", weight=2),
    _form("{his} [family] took {him} to the [place] .", lacks="near there", adds="there"),
    _form("{who} walked to the {place} .", needs="near", adds="there", drops="near", weight=3),
    _form("the {place} was full of people .", needs="there"),
    _form("{who} liked the {place} very much .", needs="there"),
    _form("it began to rain at the {place} .", needs="there"),
    _form("{who} sat down and drank some [drink] .", needs="there"),
    _form("the {place} was quiet that [time] .", needs="there"),
    # animals
    _form("{who} saw a [animal] at the {place} .", needs="there", weight=2),
    _form("a [animal] came up to {him} .", weight=2),
    _form("the {animal} {sound} [adverb] .", needs="animal", weight=2),
    _form("{who} gave the {animal} some [food] .", needs="animal"),
    _form("the {animal} was very hungry .", needs="animal"),
    _form("the {animal} followed {him} everywhere .", needs="animal"),
    _form("{who} named the {animal} [pet] .", needs="animal", weight=2),
    _form("{pet} jumped over a [thing] .", needs="pet"),
    _form("{pet} licked {his} hand .", needs="pet"),
    _form("the {animal} hid {his} {object} .", needs="animal has", adds="lost", drops="has"),
    # objects
    _form("{who} bought a [color] [object] .", lacks="has lost swapped", adds="has", weight=2),
    _form("{his} [family] gave {him} a [color] [object] .", lacks="has lost swapped", adds="has", weight=2),
    _form("{who} played with the {object} .", needs="has"),
    _form("the {color} {object} was [pair] .", needs="has"),
    _form("but then {who} lost the {object} .", needs="has", adds="lost", drops="has", weight=3),
    _form("{who} looked [spot] .", needs="lost", weight=2),
    _form("{who} could not find the {object} .", needs="lost"),
    _form("{who} looked for the {color} {object} .", needs="lost"),
    _form("{who} found the {object} [spot] .", needs="lost", adds="has", drops="lost", weight=4),
    _form(
        "the {animal} found the {color} {object} .", needs="lost animal", adds="has", drops="lost", weight=2
    ),
    _form("{who} was [bad] and began to cry .", needs="lost"),
    # friends
    _form("{his} friend [friend] came along .", weight=2),
    _form("{who} met a [trait] friend named [friend] ."),
    _form("{friend} was very [trait] .", needs="friend"),
    _form("{who} and {friend} ate some [food] .", needs="friend"),
    _form("{friend} told {him} a [tale] story .", needs="friend"),
    _form("{friend} liked the {animal} too .", needs="friend animal"),
    _form("{who} showed {friend} the {color} {object} .", needs="friend has"),
    _form("{friend} helped {him} look for the {object} .", needs="friend lost", weight=2),
    # anything
    _form("{who} was [good] .", lacks="lost", weight=1.5),
    _form("{who} was [bad] .", needs="lost"),
    _form("{who} ate some [food] ."),
    _form("{who} sang a [tale] song ."),
    _form("{who} wanted to be a [job] ."),
)

CLOSINGS = (
    _form("{who} went home and was [good] .", lacks="lost", weight=2),
    _form("it was the best day of all .", lacks="lost"),
    _form("at night {who} dreamed of the {place} .", needs="there", lacks="lost"),
    _form("{who} and the {animal} became friends .", needs="animal", lacks="lost", weight=2),
    _form("{who} hugged {his} [family] and fell asleep .", lacks="lost"),
    _form("{who} thanked {friend} and went home .", needs="friend", lacks="lost", weight=2),
    _form("{who} put the {object} in a box .", needs="has", weight=2),
    _form("{who} went home without the {object} .", needs="lost"),
    _form("{his} [family] bought {him} a new {object} .", needs="lost"),
    _form("{who} never saw the {object} again .", needs="lost"),
)

MORE_MIDDLES = (
    # what the friend owns, and who holds what
    _form("{friend} had a [gift] .", needs="friend", lacks="gift swapped", adds="gift", weight=2),
    _form("{friend} let {him} hold the {gift} .", needs="gift"),
    _form("{who} traded the {object} for the {gift} .", "has gift", "", "swapped", "has gift", weight=4),
    _form("{friend} looked after the {object} .", needs="swapped", weight=2),
    _form("{who} kept the {gift} in a pocket .", needs="swapped", weight=2),
    _form("{who} and {friend} traded back .", needs="swapped", adds="has gift", drops="swapped", weight=2),
    # how many are left
    _form("{who} picked [number] [crop] .", lacks="picked", adds="picked", weight=2),
    _form("{who} ate one of the {crop} and had {fewer} left .", "picked", "fewer", "fewer", weight=2),
    _form(
        "the {animal} took one of the {crop} and left {fewer} .", "animal fewer", "fewest", "fewest", weight=2
    ),
    _form("{who} counted the {crop} and there were {number} .", needs="picked", weight=2),
    # where and when
    _form("{who} left the {place} .", needs="there", drops="there", weight=2),
    _form("at noon {who} felt tired .", lacks="noon evening", adds="noon"),
    _form("the sun was high and hot .", needs="noon", lacks="evening"),
    _form("in the evening the stars came out .", lacks="evening", adds="evening"),
    _form("{who} looked at the stars .", needs="evening"),
)

MORE_CLOSINGS = (
    _form("{who} shared the {number} {crop} with {friend} .", needs="picked friend", lacks="lost", weight=2),
    _form("{who} kept the {gift} for ever .", needs="swapped", weight=2),
)


@dataclass(frozen=True, eq=False)
class Grammar:
    """A language of stories: how likely a story has so many sentences, and their forms."""

    num_sentences: dict[int, float]
    openings: tuple[Form, ...]
    middles: tuple[Form, ...]
    closings: tuple[Form, ...]

    @property
    def forms(self) -> tuple[Form, ...]:
        """Return all forms."""
        return self.openings + self.middles + self.closings


SHORT = Grammar({4: 0.4, 5: 0.3, 6: 0.17, 7: 0.1, 8: 0.03}, OPENINGS, MIDDLES, CLOSINGS)
LONG = Grammar(
    {8: 0.2, 9: 0.2, 10: 0.2, 11: 0.15, 12: 0.1, 13: 0.1, 14: 0.05},
    OPENINGS,
    MIDDLES + MORE_MIDDLES,
    CLOSINGS + MORE_CLOSINGS,
)
GRAMMARS = {"short": SHORT, "long": LONG}
