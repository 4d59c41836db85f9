"""Words and the dice of the demo's grammars."""

import random


class Dice:
    """Choices that depend on the seed alone: Random.random() is the same in every Python 3."""

    def __init__(self, seed):
        self._random = random.Random(seed).random

    def below(self, n):
        return int(self._random() * n)

    def pick(self, items):
        return items[self.below(len(items))]

    def some(self, items, n):
        """n different items in random order."""
        rest, out = list(items), []
        for _ in range(n):
            out.append(rest.pop(self.below(len(rest))))
        return out

    def chance(self, p):
        return self._random() < p


GIRLS = """Ada Anna Bella Cara Clara Dora Ella Emma Fay Grace Hanna Ida Ivy Jane June Kate Lena Lily
Lucy Mara Mia Mina Nell Nora Olive Pia Rosa Ruth Sara Tess Vera Wanda Zoe""".split()
BOYS = (
    """Adam Albert Ben Carl Dan David Eli Emil Finn Fred George Hugo Ian Jack Jim Karl Leo Luke Max
Milo Ned Noah Oscar Otto Paul Peter Rob Sam Simon Theo Tim Tom Will""".split()
)
ANIMALS = """badger bear beaver cat crow deer dog donkey duck fox frog goat goose hare hedgehog hen
horse lamb mole mouse otter owl pig pony rabbit robin sheep snail sparrow squirrel swan
toad turtle""".split()
ANIMAL_NAMES = (
    """Acorn Biscuit Bramble Button Clover Copper Dusty Fern Ginger Hazel Honey Maple Misty
Moss Nutmeg Pebble Pepper Pip Poppy Rusty Shadow Snowy Tansy Thistle Twig Velvet Willow""".split()
)
TRAITS = (
    """brave careful cheerful clever curious friendly funny gentle happy honest kind lively merry
patient polite quick quiet shy small strong thoughtful""".split()
)
COLOURS = "black blue brown golden green grey orange pink purple red silver white yellow".split()
SIZES = "big little long old round small tiny tall wide".split()
TREASURES = (
    """ball bell basket boat book bottle bracelet brush bucket button cap coat coin cup doll drum
fan feather flute hat horn jar key kite lamp lantern map marble mirror mitten necklace pencil pipe
pillow puppet purse ring scarf shell shoe spoon star stone sword top train umbrella wagon
whistle""".split()
)
FOODS = [
    "apple pie",
    "bread",
    "bread and butter",
    "cake",
    "carrots",
    "cheese",
    "cherries",
    "corn",
    "figs",
    "grapes",
    "honey",
    "jam",
    "nuts",
    "pancakes",
    "pears",
    "peas",
    "plums",
    "porridge",
    "pumpkin soup",
    "raisins",
    "rice",
    "soup",
    "strawberries",
    "sweet buns",
    "warm milk",
]
PLACES = [
    "the apple garden",
    "the barn",
    "the beach",
    "the big field",
    "the bridge",
    "the castle",
    "the cave",
    "the duck pond",
    "the edge of the wood",
    "the farm",
    "the forest",
    "the green hill",
    "the harbour",
    "the lake",
    "the market",
    "the meadow",
    "the mill",
    "the old tower",
    "the old well",
    "the orchard",
    "the park",
    "the river",
    "the school",
    "the stone wall",
    "the stream",
    "the top of the hill",
    "the valley",
    "the village",
]
HOMES = [
    "a small house near the forest",
    "a white house by the sea",
    "a little village",
    "a little farmhouse",
    "a cottage at the end of a lane",
    "a town by a wide river",
    "a tall house with a red door",
    "a warm house under a big oak tree",
    "a mill beside a stream",
    "a house full of books",
]
WEATHER = [
    "The sun was shining.",
    "It was a warm day.",
    "It was a cold and windy day.",
    "The sky was blue.",
    "Grey clouds hung over the hills.",
    "A soft rain was falling.",
    "The birds were singing.",
    "The grass was still wet.",
    "The wind smelled of flowers.",
    "It was very quiet outside.",
    "White clouds sailed over the fields.",
    "The air was fresh and clear.",
]
TIMES = [
    "One morning",
    "One day",
    "One afternoon",
    "One evening",
    "One winter morning",
    "On a summer day",
    "On Monday",
    "On Saturday",
    "Early in the morning",
    "Late in the day",
    "One spring day",
    "Last week",
]
RELATIVES = [
    "mother",
    "father",
    "grandmother",
    "grandfather",
    "aunt",
    "uncle",
    "big sister",
    "big brother",
]
MORALS = {
    "help": [
        "From that day on, {N} always helped when someone was in need.",
        "It feels good to help a friend.",
        "{N} had learned that even small hands can do great things.",
        "A little help can make a big difference.",
    ],
    "share": [
        "{N} learned that everything tastes better when you share it.",
        "Sharing made them both happy.",
        "What we share is never lost.",
    ],
    "work": [
        "{N} was proud, because {he} had not given up.",
        "Good things need time.",
        "{N} learned that hard work pays in the end.",
        "It is better to try again than to stop.",
    ],
    "brave": [
        "{N} was not afraid any more.",
        "Being brave means to try although you are afraid.",
        "After that, {N} felt a little bigger.",
    ],
    "honest": [
        "{N} felt light and free again.",
        "It is always better to tell the truth.",
        "{N} promised {him}self to be honest from now on.",
    ],
    "friend": [
        "They stayed friends for ever.",
        "A good friend is worth more than gold.",
        "And from that day on they played together every day.",
        "{N} was glad to have such a friend.",
    ],
    "wonder": [
        "{N} kept the secret for the rest of {his} life.",
        "{N} never forgot that day.",
        "Sometimes a wonder is very close to home.",
    ],
}
