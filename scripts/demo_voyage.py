"""Logs of sailing ships in an old-fashioned hand: dated entries of a fixed form.

LOG. 3rd of May, 1794. Wind W.S.W., a fresh gale. Course N. by E. Lat. 48 deg. 12 min. N.
...sentences...
So ends this day. All well on board.
"""

SHIPS = [
    ("brig", "Constance"),
    ("ship", "Good Intent"),
    ("sloop", "Halcyon"),
    ("barque", "Margaret Ann"),
    ("schooner", "Swift Return"),
    ("brig", "Perseverance"),
    ("ship", "Northern Star"),
    ("cutter", "Petrel"),
    ("barque", "Providence"),
    ("snow", "Charlotte"),
]
MASTERS = [
    "Wm. Harrow",
    "Jno. Penrose",
    "Thos. Aldous",
    "Jas. Merrick",
    "Edw. Tolland",
    "Saml. Vane",
    "Robt. Quill",
    "Geo. Ashdown",
]
HANDS = [
    "Jacob Trill",
    "old Pascoe",
    "the boy Nathaniel",
    "Mr. Dunmore the mate",
    "our surgeon Mr. Lisle",
    "the carpenter",
    "the cook",
    "the sail-maker",
    "Isaac Bowden",
    "Peter the Dane",
    "Tobias Wren",
    "the boatswain",
    "Abel Crouch",
    "our purser Mr. Fairweather",
]
MONTHS = [
    ("January", 31),
    ("February", 28),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("September", 30),
    ("October", 31),
    ("November", 30),
    ("December", 31),
]
POINTS = [
    "N.",
    "N.N.E.",
    "N.E.",
    "E.N.E.",
    "E.",
    "E.S.E.",
    "S.E.",
    "S.S.E.",
    "S.",
    "S.S.W.",
    "S.W.",
    "W.S.W.",
    "W.",
    "W.N.W.",
    "N.W.",
    "N.N.W.",
]
COURSES = POINTS + ["N. by E.", "N. by W.", "S. by E.", "S. by W.", "E. by S.", "W. by N."]
WINDS = {
    "calm": ["light airs and baffling", "next to nothing", "a faint breath only", "calm"],
    "fair": [
        "a fresh breeze",
        "a steady gale and fair",
        "a moderate breeze",
        "a fine topgallant breeze",
    ],
    "foul": [
        "blowing hard",
        "a whole gale",
        "a furious tempest",
        "strong gales with rain",
        "squally",
    ],
    "thick": ["light, with a thick fog", "little, the weather hazy", "unsettled, with small rain"],
}
LANDS = [
    "the Cape of St. Brannoc",
    "the Isle of Merrow",
    "Port Desolation",
    "the Sound of Aldery",
    "the Widow's Head",
    "the Sugar Islands",
    "the coast of Norrland",
    "Trinity Bay",
    "the Hook of Sarn",
    "Cold Harbour",
]
CARGO = [
    "cordage",
    "salt fish",
    "hides",
    "oil",
    "tea",
    "timber",
    "wool",
    "copper",
    "indigo",
    "rum",
    "wheat",
]
SAILS = [
    "main topsail",
    "fore topsail",
    "mizen",
    "jib",
    "fore course",
    "main course",
    "topgallant sails",
]
GEAR = [
    "the main yard",
    "the bowsprit",
    "the fore topmast",
    "the long boat",
    "the rudder chains",
    "the larboard rail",
    "the best bower cable",
    "the cabin windows",
    "the galley fire-place",
]
FOWL = [
    "petrels",
    "gannets",
    "albatrosses",
    "noddies",
    "Mother Carey's chickens",
    "gulls",
    "boobies",
]
FISH = [
    "bonito",
    "dolphins",
    "a great shark",
    "flying fish",
    "porpoises",
    "a cod of uncommon size",
    "two turtles",
]
STORES = ["bread", "salt beef", "pork", "pease", "oatmeal", "fresh water", "lime juice", "spirits"]

EVENTS = {
    "calm": [
        "The sails did hang idle the whole day, and the sea lay like glass about us.",
        "Not a breath to fill the {sail}; the people were set to pick oakum.",
        "Got the boats out ahead to tow her head round, but to little purpose.",
        "The current did set us {n} miles to the {point} against our will.",
        "The pitch bubbled in the seams, such was the heat of the sun.",
        "{Hand} did whistle for a wind, and was rebuked for it.",
        "At noon {hand} swam about the ship, until we saw {fish} and called him in with all haste.",
    ],
    "fair": [
        "Made sail and set the {sail}; she ran {n} knots by the log.",
        "The ship doth answer well, and makes but little water.",
        "We have run {m} leagues since yesterday noon, for which God be thanked.",
        "Saw a great many {fowl}, which is held for a sign of land.",
        "Spoke the {vessel} of {port}, {n} weeks out, laden with {cargo}, all well.",
        "The people employed in mending the {sail} and blacking the rigging.",
        "Served out fresh clothing to the hands, and mustered them clean.",
        "{Hand} took {fish} with a hook and line, which made a welcome mess for all.",
    ],
    "foul": [
        "At {n} in the morning it came on to blow, and we did hand the {sail}.",
        (
            "Shipped a heavy sea, which stove {gear} and washed {hand} into the scuppers, yet by"
            " mercy he was not lost."
        ),
        "Lay to under a close-reefed {sail}, the sea running mountains high.",
        "Carried away {gear}; the carpenter was at work upon it until dark.",
        "The pumps were going the whole of the night, {n} feet of water being in the well.",
        "Split the {sail} to ribbons and bent another in its place.",
        "Not a man had dry cloth to his back, nor a fire to dress victuals by.",
        "Lightning about the masts, with such thunder as {hand} swears he never heard.",
    ],
    "thick": [
        "Fired a gun every half hour, and kept the bell going.",
        (
            "Could not see the length of the ship; hove the lead and found {m} fathoms, grey sand"
            " and shells."
        ),
        "Heard breakers upon the {side} bow, and wore ship directly.",
        "Toward evening the fog lifted, and {land} bore {point}, distant {n} leagues.",
        "{Hand} did think he heard voices over the water, but no answer came to our hail.",
        "Kept the lead going all night; no bottom with {m} fathoms of line.",
    ],
    "any": [
        "Stove a cask of {store}, whereby we are put to a shorter allowance.",
        "Opened a cask of {store}, No. {m}, and found it {state}.",
        "{Hand} was taken ill of a fever and is bled by the surgeon.",
        "{Hand} is much mended, and has asked for his tobacco.",
        "Raised {land} at {n} in the afternoon, bearing {point}.",
        "A strange sail was seen to the {point}, standing from us under all she could carry.",
        "Punished {hand2} with stopping of his grog, for sleeping in his watch.",
        "There is some murmuring among the people concerning the {store}.",
        "By observation at noon we are {m} leagues from {land}.",
        "Sent the boat ashore for wood and water, under the charge of {hand}.",
        "The islanders did bring us fowls and green stuff, and took nails in exchange.",
        "{Hand} did find a leak abaft the mainmast, and hath stopped it with oakum and tallow.",
        "The cat has brought forth {n} kittens in the sail locker, which is held to be lucky.",
        "{Hand} told us over the fire of {land}, and of the lights that are seen there.",
        "I have writ to my owners by the {vessel}, that they may look for us before winter.",
        "Buried a poor fellow of the larboard watch; the whole company stood uncovered.",
        "We did see a whale with her young, that passed within an oar's length of the ship.",
        "The rats have got among the {cargo}, and {hand} is set to hunt them.",
    ],
}
SUNDAY = [
    "Being Sunday, read prayers to the company, who did attend with decency.",
    "Being the Lord's day, no work was done save what the ship required.",
]
CLOSES = [
    "So ends this day.",
    "So ends this day. All well on board.",
    "Thus ends these four and twenty hours.",
    "So ends, and God keep us through the night.",
    "So ends this day, the people in good heart.",
    "Thus ends this day, with hard weary men.",
    "So ends this day. Water remaining, {m} casks.",
]
STATES = [
    "sweet and good",
    "musty",
    "short by a third part",
    "full of weevils",
    "tolerable",
    "spoiled by damp",
]


def ordinal(n):
    if n % 100 in (11, 12, 13):
        return f"{n}th"
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th') }"


def fill(dice, text, ship):
    def capital(s):
        return s[0].upper() + s[1:]

    vessel = dice.pick([f"{kind} {name}" for kind, name in SHIPS if name != ship])
    hand = dice.pick(HANDS)
    return text.format(
        sail=dice.pick(SAILS),
        n=dice.pick(["two", "three", "four", "five", "six", "seven", "eight", "nine"]),
        m=10 + dice.below(80),
        point=dice.pick(POINTS),
        hand=hand,
        Hand=capital(hand),
        hand2=dice.pick(
            ["one Stubbs", "one Carraway", "the man Biddle", "Abel Crouch", "Tobias Wren"]
        ),
        fish=dice.pick(FISH),
        fowl=dice.pick(FOWL),
        vessel=vessel,
        cargo=dice.pick(CARGO),
        port=dice.pick(["Bristol", "Leith", "Cork", "Boston", "Lisbon", "Bergen", "Hull"]),
        gear=dice.pick(GEAR),
        side=dice.pick(["larboard", "starboard"]),
        land=dice.pick(LANDS),
        store=dice.pick(STORES),
        state=dice.pick(STATES),
    )


def position(lat, lon):
    return (
        f"Lat. {abs(lat) // 60} deg. {abs(lat) % 60} min. {'N' if lat >= 0 else 'S'}., "
        f"Long. {abs(lon) // 60} deg. {abs(lon) % 60} min. {'E' if lon >= 0 else 'W'}."
    )


def entry(dice, ship, day, weekday, lat, lon, weather):
    month, date, year = day
    wind = f"{dice.pick(POINTS)}, {dice.pick(WINDS[weather])}"
    head = f"LOG. {ordinal(date)} of {MONTHS[month][0]}, {year}. Wind {wind}."
    head += f" Course {dice.pick(COURSES)}" + (f" {position(lat, lon)}" if dice.chance(0.7) else "")
    body = dice.some(EVENTS[weather], 1 + dice.below(3)) + dice.some(
        EVENTS["any"], 1 + dice.below(2)
    )
    body = [body[0]] + dice.some(body[1:], len(body) - 1)
    if weekday == 0:
        body.insert(0, dice.pick(SUNDAY))
    lines = [head, " ".join(fill(dice, b, ship) for b in body), fill(dice, dice.pick(CLOSES), ship)]
    return "\n".join(lines)


def voyage(dice, number):
    """The heading of one voyage, then its entries, day after day; the weather changes slowly."""
    kind, name = SHIPS[number % len(SHIPS)]
    month, date, year = dice.below(12), 1 + dice.below(28), 1760 + dice.below(60)
    land, cargo = dice.pick(LANDS), dice.some(CARGO, 2)
    yield (
        f"THE LOG of the {kind} {name.upper()}, {dice.pick(MASTERS)}, master, bound for {land} "
        f"with {cargo[0]} and {cargo[1]}, {year}."
    )
    lat, lon = 600 + dice.below(2400), dice.below(4800) - 2400
    weekday, weather = dice.below(7), dice.pick(list(WINDS))
    for _ in range(40 + dice.below(30)):
        yield entry(dice, name, (month, date, year), weekday, lat, lon, weather)
        date, weekday = date + 1, (weekday + 1) % 7
        if date > MONTHS[month][1]:
            month, date = month + 1, 1
            if month == 12:
                month, year = 0, year + 1
        lat, lon = lat - 20 - dice.below(60), lon + dice.below(160) - 60
        if dice.chance(0.4):
            weather = dice.pick(list(WINDS))
