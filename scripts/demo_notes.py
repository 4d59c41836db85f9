"""Diaries, letters, lists and little lessons in plain English, mixed among the stories.

They bring what stories lack (figures, dates, capitals, abbreviations, words of the sea), so that a
model that has read them has met every token of the demo's tokenizer before it is fine-tuned on the
ship's log. The log's own phrases are not in here.
"""

import demo_words as w
from demo_voyage import CARGO, FISH, FOWL, MONTHS, POINTS, SAILS, STORES, ordinal

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
LONG_POINTS = {
    "N.": "north",
    "N.N.E.": "north-north-east",
    "N.E.": "north-east",
    "E.N.E.": "east-north-east",
    "E.": "east",
    "E.S.E.": "east-south-east",
    "S.E.": "south-east",
    "S.S.E.": "south-south-east",
    "S.": "south",
    "S.S.W.": "south-south-west",
    "S.W.": "south-west",
    "W.S.W.": "west-south-west",
    "W.": "west",
    "W.N.W.": "west-north-west",
    "N.W.": "north-west",
    "N.N.W.": "north-north-west",
}
LESSONS = [
    "A brig is a ship with two masts.",
    "A sloop has one mast and a barque has three.",
    "The left side of a ship is called larboard, and the right side is called starboard.",
    "The bow is the front of a ship; the cabin windows are at the back.",
    "A fathom is as long as the arms of a tall man.",
    "A league is three miles.",
    "A knot is one mile of the sea in one hour.",
    "A gale is a very strong wind.",
    "A breeze is a soft wind. When there is no wind at all, it is calm.",
    "When there is a thick fog, a ship rings her bell; then others can hear her.",
    "The captain of a ship is also called the master.",
    "The mate helps the captain, and the boatswain looks after the ropes.",
    "The carpenter mends the ship, and the sail-maker mends the sails.",
    "The surgeon looks after those who are ill.",
    "The purser looks after the food and the money.",
    "The cook makes a fire and boils the beef.",
    "The pumps bring the water out of a ship.",
    "The anchor hangs on a strong cable.",
    "A cask is a round box for water or food.",
    "Oakum is made of old rope.",
    "The company of a ship are all the people on board.",
    "To hand a sail is to take it in. To set a sail is to open it.",
    "A watch is four hours long; then the others must work.",
    (
        "Sailors drop the lead to see how deep the water is. There may be grey sand or shells at"
        " the bottom."
    ),
    "To tow a ship is to pull her with boats.",
    "The rudder turns the ship.",
    "At noon the sailors look at the sun and write down where they are.",
    "In his log the captain writes the wind, the course and the weather of each day.",
    "The people on a small island are called islanders.",
    "Lime juice keeps the sailors well.",
    "The main course is the biggest sail of the main mast.",
    "A topsail is above the course.",
]
DIARY = [
    "I got up at {n} and ate {food}.",
    "We had {food} for dinner.",
    "It rained for {n} hours; we stayed in the house.",
    "I wrote {n} lines in my book.",
    "{N} came to see us and stayed until {n}.",
    "I saw {n} {animal}s near {P}.",
    "My {R}'s dog is {n} years old today.",
    "I walked {n} miles to {P}.",
    "The wind came from the {long}.",
    "We paid {m} pence for {food}.",
    "A {ship} came into the harbour with {cargo} and {cargo2}.",
    "I read about {fish} and {fowl}.",
    "I could not sleep, because it was so hot.",
    "Father was not well, but God be thanked, he is better now.",
    "It was very cold, and the water in the well was ice.",
    "I lost {m} marbles and found {k} of them.",
    "Tomorrow we shall go to {P}.",
]
LETTER = [
    "Thank you for the {t} that you sent me.",
    "We are all well here.",
    "The ship {ship2} came back after {m} weeks at sea; all are well.",
    "I hope that you will come in {month}.",
    "Our house is No. {m}, next to {P}.",
    "Mr. {Boy} asks for you every day.",
    "Please bring some {store} and {cargo}; we have none.",
    "Grandfather told us of a great storm in {year}.",
    "I have made {n} new friends.",
    "We had a feast with {food} and {food2}.",
    "My {R} says that you must write soon.",
    "The road is {m} miles long, so we shall need {n} days.",
]
SHIP_KINDS = ["brig", "sloop", "barque", "schooner", "cutter", "ship"]


def note_slots(dice):
    numbers = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]
    month, days = dice.pick(MONTHS)
    m = 3 + dice.below(90)
    return {
        "n": dice.pick(numbers),
        "m": m,
        "k": 1 + dice.below(m),
        "N": dice.pick(w.GIRLS + w.BOYS),
        "Girl": dice.pick(w.GIRLS),
        "Boy": dice.pick(w.BOYS),
        "food": dice.pick(w.FOODS),
        "food2": dice.pick(w.FOODS),
        "animal": dice.pick(["cat", "dog", "duck", "frog", "hen", "pig", "crow"]),
        "P": dice.pick(w.PLACES),
        "R": dice.pick(w.RELATIVES),
        "t": dice.pick(w.TREASURES),
        "long": dice.pick(list(LONG_POINTS.values())),
        "ship": dice.pick(SHIP_KINDS),
        "ship2": dice.pick(w.GIRLS),
        "cargo": dice.pick(CARGO),
        "cargo2": dice.pick(CARGO),
        "fish": dice.pick(FISH),
        "fowl": dice.pick(FOWL),
        "store": dice.pick(STORES),
        "sail": dice.pick(SAILS),
        "month": month,
        "year": 1740 + dice.below(100),
        "weekday": dice.pick(DAYS),
        "date": ordinal(1 + dice.below(days)),
        "point": dice.pick(POINTS),
    }


def say(dice, texts, n):
    return " ".join(t.format(**note_slots(dice)) for t in dice.some(texts, n))


def diary(dice):
    s = note_slots(dice)
    return "{weekday}, the {date} of {month}, {year}.\n".format(**s) + say(
        dice, DIARY, 3 + dice.below(3)
    )


def letter(dice):
    s = note_slots(dice)
    return f"Dear {s['Girl']},\n{say(dice, LETTER, 3 + dice.below(3))}\nYour friend {s['Boy']}"


def price_list(dice):
    goods = dice.some(w.TREASURES + STORES + CARGO, 4 + dice.below(4))
    rows = [
        f"No. {i + 1}: {1 + dice.below(60)} {g}, {1 + dice.below(99)} pence"
        for i, g in enumerate(goods)
    ]
    return "In the shop of Mr. " + dice.pick(w.BOYS) + " there are:\n" + "\n".join(rows) + "."


def sums(dice):
    rows = []
    for _ in range(4 + dice.below(4)):
        a, b = 1 + dice.below(60), 1 + dice.below(40)
        rows.append(f"{a} and {b} make {a + b}.")
    return f"{dice.pick(w.GIRLS + w.BOYS)} can count. " + " ".join(rows)


def lesson(dice):
    return "A lesson about ships. " + " ".join(dice.some(LESSONS, 4 + dice.below(3)))


def compass(dice):
    points = dice.some(POINTS, 4)
    return " ".join(f"{p} means {LONG_POINTS[p]}." for p in points)


def chart(dice):
    rows = []
    for _ in range(3 + dice.below(3)):
        s = note_slots(dice)
        rows.append(
            f"{s['weekday']}: {s['Girl']} was at {dice.below(60)} deg. {dice.below(60)} min. "
            f"{dice.pick(['N.', 'S.'])} (Lat.) and {dice.below(90)} deg. {dice.below(60)} min. "
            f"{dice.pick(['E.', 'W.'])} (Long.), wind {dice.pick(POINTS)}"
        )
    return "A game with a chart of the sea.\n" + "\n".join(rows)


def note(dice):
    return dice.pick(
        [diary, diary, letter, letter, price_list, sums, lesson, lesson, compass, chart]
    )(dice)
