"""Little stories in simple words: a plot is a list of beats, a beat is a choice of sentences.

Slots: N hero, he/him/his/He/His the hero's pronouns, F the friend and fhe/fhim/fhis/FHe, Fk the
friend by full name ("Rusty the fox"), kind and fkind ("girl", "fox"), n and Number a number,
T a treasure ("a red kite"), t and lt the same without article ("kite", "red kite"), P and Q places,
food, R a relative, colour, trait and trait2.
"""

import demo_words as w

PRONOUNS = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}


def article(words):
    return ("an " if words[0] in "aeiou" or words.startswith("honest") else "a ") + words


def person(dice):
    """(name, kind, pronouns): a child, or an animal with a name."""
    if dice.chance(0.6):
        kind = dice.pick(["girl", "boy"])
        return dice.pick(w.GIRLS if kind == "girl" else w.BOYS), kind, PRONOUNS[kind]
    return dice.pick(w.ANIMAL_NAMES), dice.pick(w.ANIMALS), PRONOUNS[dice.pick(["girl", "boy"])]


def slots(dice):
    name, kind, (he, him, his) = person(dice)
    friend, fkind, (fhe, fhim, fhis) = person(dice)
    while friend == name:
        friend, fkind, (fhe, fhim, fhis) = person(dice)
    look = dice.pick(w.COLOURS if dice.chance(0.6) else w.SIZES)
    thing = dice.pick(w.TREASURES)
    number = dice.pick(["two", "three", "four", "five", "six", "seven"])
    p, q = dice.some(w.PLACES, 2)
    trait, trait2 = dice.some(w.TRAITS, 2)
    return {
        "N": name,
        "kind": kind,
        "he": he,
        "him": him,
        "his": his,
        "He": he.title(),
        "His": his.title(),
        "F": friend,
        "fkind": fkind,
        "fhe": fhe,
        "fhim": fhim,
        "fhis": fhis,
        "FHe": fhe.title(),
        "a_kind": article(kind),
        "a_fkind": article(fkind),
        "T": article(f"{look} {thing}"),
        "t": thing,
        "lt": f"{look} {thing}",
        "P": p,
        "Q": q,
        "food": dice.pick(w.FOODS),
        "R": dice.pick(w.RELATIVES),
        "trait": trait,
        "trait2": trait2,
        "a_trait": article(trait),
        "a_ftrait": article(dice.pick(w.TRAITS)),
        "home": dice.pick(w.HOMES),
        "time": dice.pick(w.TIMES),
        "weather": dice.pick(w.WEATHER),
        "colour": dice.pick(w.COLOURS),
        "n": number,
        "Number": number.title(),
        "Fk": friend if fkind in PRONOUNS else f"{friend} the {fkind}",
    }


OPENING = [
    "Once upon a time there was {a_trait} {kind} named {N}. {He} lived in {home}.",
    "Once upon a time, in {home}, there lived {a_kind} called {N}.",
    "{N} was {a_trait} {kind} who lived in {home}.",
    "There once was {a_trait} {kind}. {His} name was {N}.",
    "In {home} lived {a_kind} named {N}. Everybody said that {N} was {trait} and {trait2}.",
    "{N} was {a_trait} and {trait2} {kind}.",
    "Long ago there was {a_kind} whose name was {N}. {He} was very {trait}.",
]

LOST = [
    [
        "{N} had {T}. {He} loved it more than anything.",
        "For {his} birthday {N} had got {T}.",
        "{N} had {T} and took it everywhere.",
        "{His} {R} had given {him} {T}.",
    ],
    [
        "{time}, {N} went to {P} to play. {weather}",
        "{time}, {he} walked to {P}. {weather}",
        "{weather} {N} ran all the way to {P}.",
    ],
    [
        "When {he} came home, the {t} was gone.",
        "But when {he} looked for the {t}, it was not there.",
        "In the evening {he} could not find the {t}.",
    ],
    [
        "{N} was very sad and began to cry.",
        '"Oh no!" cried {N}. "I have lost my {t}!"',
        "{He} looked under the bed and behind the door, but found nothing.",
        '"Where can it be?" {he} asked.',
    ],
    [
        'Then {Fk} came along. "Why are you so sad?" asked {F}.',
        '{His} friend {F} heard about it. "I will help you look," said {F}.',
        '"Do not worry," said {F}, {a_ftrait} {fkind}. "We will find it together."',
    ],
    [
        "They looked near {P}, and then they looked near {Q}.",
        "They searched the whole way to {P}.",
        "They asked everybody they met, but nobody had seen it.",
        "First they went back to {P}.",
    ],
    [
        "At last {F} saw something {colour} in the grass. It was the {t}!",
        '"Look!" called {F}. The {t} was lying between two stones.',
        "And there, under a bush, was the {lt}.",
        "There it was, right in the middle of the path!",
    ],
    [
        '"Thank you!" said {N} and hugged {F}.',
        "{N} jumped for joy and thanked {F}.",
        "{N} gave {F} some {food} to say thank you.",
    ],
    "friend",
]

RESCUE = [
    [
        "{time}, {N} was walking near {P}. {weather}",
        "{time}, {N} went out to find some {food}. {weather}",
    ],
    [
        'Suddenly {he} heard a small voice. "Help! Help!"',
        "Then {he} heard someone crying.",
        "There {he} saw {a_fkind} who could not move.",
    ],
    [
        "It was {Fk}, who had fallen into a hole.",
        "It was {a_fkind} named {F}. {FHe} was stuck in the mud.",
        "{Fk} was caught under a heavy branch.",
        "{Fk} had hurt {fhis} foot.",
    ],
    [
        '"Hold on," said {N}. "I am coming."',
        "{N} was afraid, but {he} did not run away.",
        '"Do not be afraid," said {N}. "I will help you."',
    ],
    [
        "{He} pulled and pulled, but {he} was not strong enough.",
        "{N} tried with all {his} strength.",
        "{He} thought about it for a while. Then {he} had an idea.",
    ],
    [
        "{He} took a long stick and pushed with it.",
        "{He} ran to {Q} and came back with a rope.",
        "{He} called {his} {R}, and together they pulled again.",
        "{He} tied {his} coat to a tree and threw the other end to {F}.",
    ],
    [
        "One, two, three, and {F} was free!",
        "At last {F} was safe.",
        "With a loud pop, {F} was free.",
    ],
    [
        '"You saved me," said {F}. "How can I thank you?"',
        "{F} smiled and gave {N} {T}.",
        "{F} was so happy that {fhe} danced around {N}.",
    ],
    "help",
]

SHARE = [
    [
        "{time}, {N} had a basket full of {food}. {weather}",
        "{time}, {his} {R} gave {N} a plate of {food}.",
        "{N} loved {food} more than anything else. {time}, {he} had a whole basket of it.",
    ],
    [
        "{He} sat down near {P} to eat.",
        "{He} went to {P} and wanted to eat all of it alone.",
        '"This is all for me," {he} thought.',
    ],
    [
        "Then {Fk} came by. {FHe} looked hungry.",
        "But then {he} saw {F}, {a_ftrait} {fkind}, who had nothing to eat.",
        '"That smells good," said {Fk}.',
    ],
    [
        '"May I have a little?" asked {F}.',
        "{F} did not say a word, but {fhis} eyes were big.",
        '"I have not eaten since yesterday," said {F}.',
    ],
    [
        "{N} looked at the {food} and looked at {F}.",
        "{N} did not know what to do.",
        "At first {N} wanted to say no.",
    ],
    [
        "Then {he} gave half of it to {F}.",
        '"Yes," said {N}. "There is enough for both of us."',
        '"Come and sit with me," said {N}.',
    ],
    [
        "They ate and laughed until the sun went down.",
        "Together they ate every bit of it.",
        "It was the best meal {N} had ever had.",
    ],
    [
        "The next day {F} came back and brought {T}.",
        '"Tomorrow I will bring you something, too," said {F}.',
        "When {N} was hungry again, {F} shared with {him}.",
    ],
    "share",
]

BUILD = [
    [
        "{time}, {N} and {Fk} wanted to build a little house.",
        '{time}, {N} had an idea. "Let us build a boat!" {he} said to {Fk}.',
        "{N} wanted to build a bridge over the stream, and {Fk} wanted to help.",
    ],
    [
        "They found wood near {P} and stones near {Q}.",
        "They carried wood all day. {weather}",
        "{N} brought the wood and {F} brought a hammer.",
    ],
    [
        "They worked for {n} days.",
        "They worked until the stars came out.",
        "It was hard work, but they sang all the time.",
    ],
    [
        "But in the night a strong wind came and broke everything.",
        "But when they were done, it fell down with a crash.",
        "Then it began to rain, and the water took it away.",
    ],
    ['"It is no use," said {F}.', "{F} sat down and cried.", '"All our work is gone," said {F}.'],
    [
        '"We can do it again," said {N}, "and this time we do it better."',
        "But {N} did not want to give up.",
        "{N} asked {his} {R} how to make it stronger.",
    ],
    [
        "So they used bigger stones and longer ropes.",
        "They began again, slowly and with care.",
        "This time they took the strongest wood that they could find.",
    ],
    [
        "When the next storm came, it did not fall.",
        "At last it was done, and it was strong.",
        "And when it was ready, everybody came to look at it.",
    ],
    "work",
]

FEAR = [
    [
        "{N} was afraid of the dark.",
        "{N} was afraid of deep water.",
        "{N} was afraid of thunder.",
        "{N} was afraid of high places.",
        "{N} was afraid of the old house near {P}.",
    ],
    [
        "{He} did not tell anybody about it.",
        "The others laughed at {him}.",
        "{He} wished {he} were brave like {his} friend {F}.",
    ],
    [
        "{time}, {Fk} did not come home from {Q}.",
        "{time}, {his} little friend {F} was lost near {Q}.",
        "{time}, {he} heard that {Fk} needed help at {Q}.",
    ],
    [
        "Nobody else was there. {N} had to go alone.",
        '"Someone must go," said {his} {R}.',
        '"I must find {F}," thought {N}.',
    ],
    [
        "{His} legs were shaking, but {he} took a lamp and went out.",
        "{He} took a deep breath and started to walk.",
        "{He} sang a song to feel better.",
    ],
    [
        "The wind howled and the trees were black.",
        "Every step was hard.",
        "{He} wanted to turn back, but {he} thought of {F}.",
    ],
    [
        'Then {he} heard a voice. "{N}, is it you?"',
        "At last {he} saw {F} behind a big stone.",
        "And there was {F}, cold and tired.",
    ],
    [
        '"You came!" said {F}. "You are so brave."',
        "Hand in hand they went home.",
        "{N} took {F} home, and {his} {R} made them some {food}.",
    ],
    "brave",
]

MARKET = [
    [
        "{time}, {N} went to the market with {his} {R}.",
        "{time}, there was a big market in the village. {weather}",
    ],
    [
        "There {he} saw {T}. It was the most beautiful thing in the world.",
        "In one shop there was {T} that shone in the sun.",
        "An old man was selling {T}.",
    ],
    [
        '"How much is it?" asked {N}. "{Number} coins," said the man.',
        "It cost {n} coins, but {N} had only one.",
    ],
    [
        "{N} went home and thought about it.",
        "{N} was sad, but {he} did not cry.",
        '"Then I will work for it," said {N}.',
    ],
    [
        "{He} carried water for {Fk} and got one coin.",
        "{He} picked apples for {Fk} for {n} days.",
        "{He} cleaned the house of {Fk}.",
    ],
    [
        "{He} swept the path to {P}, too.",
        "{He} fed the hens and brought wood to {Q}.",
        "Every day {he} put a coin into a jar.",
    ],
    [
        "At last {he} had enough coins and ran to the market.",
        "After a long time {he} had all the coins {he} needed.",
    ],
    [
        "The {t} was still there, and {N} bought it.",
        '"You have worked hard," said the man, and he gave {him} the {t} and one coin back.',
        (
            "But when {he} saw that {F} was ill, {he} bought some {food} for {F} instead, and {he}"
            " was happy all the same."
        ),
    ],
    "work",
]

QUARREL = [
    ["{N} and {Fk} were best friends.", "Every day {N} played with {Fk} near {P}."],
    ["{time}, they found {T} near {P}.", "{time}, they both wanted to play with the same {t}."],
    [
        '"It is mine!" said {N}. "No, it is mine!" said {F}.',
        '"I saw it first," said {F}. "But I picked it up," said {N}.',
        "They both pulled at the {t}.",
    ],
    [
        "They pulled until it broke.",
        "{F} was angry and went home.",
        "They shouted so loud that the birds flew away.",
    ],
    [
        "Now {N} was alone. The game was no fun any more.",
        "{N} sat near {Q} and was sad.",
        "That night {N} could not sleep.",
    ],
    [
        "In the morning {he} went to the house of {F}.",
        '"I want my friend back," {he} thought.',
        '{His} {R} said, "Go and talk to {F}."',
    ],
    [
        '"I am sorry," said {N}. "I am sorry, too," said {F}.',
        '"You can have the {t}," said {N}. "No," said {F}, "let us play with it together."',
        'Before {N} could say a word, {F} came to {him} and said, "I am sorry."',
    ],
    [
        "They mended the {t} together.",
        "Then they laughed and ran to {Q}.",
        "They shared some {food} and made up a new game.",
    ],
    "friend",
]

GIFT = [
    ["It was nearly the birthday of {Fk}.", "{N} heard that {Fk} had a birthday soon."],
    [
        "{N} wanted to give {F} something special.",
        '"What can I give to {F}?" thought {N}.',
        "But {N} had no money for a present.",
    ],
    [
        "{He} went to {P} to look for something. {weather}",
        '{He} asked {his} {R}, who said, "Give something that you made yourself."',
    ],
    [
        "There {he} found some wood, and {he} made {T} out of it.",
        "So {he} made {T}. It took {n} days.",
        "{He} found an old {t}, cleaned it and painted it {colour}.",
    ],
    [
        "{His} hands were full of {colour} paint.",
        "{He} worked in secret every evening.",
        "It was not easy, and {he} had to begin again {n} times.",
    ],
    [
        "On the birthday they had {food} for everyone.",
        "Then the day came. All the friends met near {Q}.",
        "{F} opened one present after the other.",
    ],
    [
        "When {F} saw the {t}, {fhe} was very happy.",
        '"Did you make this for me?" asked {F}.',
        '"This is the best one of all," said {F}.',
    ],
    [
        "{F} kept it for many years.",
        "{N} smiled from ear to ear.",
        "They danced until it was dark.",
    ],
    "share",
]

RACE = [
    ["{time}, there was a race from {P} to {Q}.", "Every year there was a big race to {Q}."],
    [
        "{N} wanted to win, but {he} was not very fast.",
        '"You are too slow," said {Fk}.',
        "{Fk} was the fastest of all and told it to everyone.",
    ],
    [
        "{N} ran every morning before breakfast.",
        "So {N} practised every day.",
        '"I will try," said {N}.',
    ],
    ["Then the day came. {weather}", "On the day of the race everybody came to look."],
    [
        '"Ready, steady, go!" {F} was soon far ahead.',
        "They all started to run, and {F} was the first.",
    ],
    [
        "But {F} stopped to eat some {food}.",
        "But halfway {F} sat down to rest and fell asleep.",
        "But {F} ran the wrong way and got lost.",
    ],
    [
        "{N} kept running, step by step.",
        "{N} did not look left or right.",
        "{N} was tired, but {he} did not stop.",
    ],
    [
        "And so {N} won the race and got {T}.",
        "In the end {N} was the first, and everybody cheered.",
        (
            "{N} saw that {F} had fallen, and {he} stopped to help {fhim}. They came in last, but"
            " hand in hand."
        ),
    ],
    "work",
]

SECRET = [
    [
        "{time}, {N} found {T} near {P}.",
        "{time}, {N} found a small door in a wall near {P}.",
        "{time}, {N} found an old box under the floor.",
    ],
    [
        "It was covered with dust.",
        "There was a strange sign on it.",
        "{N} had never seen anything like it.",
    ],
    [
        "{He} showed it to {Fk}.",
        "{He} ran to tell {Fk}.",
        '"Look at this," {he} whispered to {Fk}.',
    ],
    [
        '"It must be very old," said {F}.',
        '"Maybe it is magic," said {F}.',
        '"Be careful," said {F}.',
    ],
    [
        "{N} touched it with one finger.",
        "They waited until it was dark.",
        "{N} said a little rhyme and blew the dust away.",
    ],
    [
        "Suddenly there was a {colour} light.",
        "Then they heard a soft song.",
        "It began to shine like the moon.",
    ],
    [
        'And there stood a tiny man with a {colour} hat. "You may make one wish," he said.',
        'Inside there was a letter. "Whoever finds this will have good luck," it said.',
        "For a moment they could see a garden full of {colour} flowers.",
    ],
    [
        "{N} wished that {his} {R} would be well again, and so it was.",
        "{N} wished for enough {food} for everyone in the village.",
        "Then the light went out, and everything was as before.",
    ],
    "wonder",
]

TRUTH = [
    [
        "{time}, {N} was playing in the house, although {his} {R} had said no.",
        "{time}, {N} took the {lt} of {his} {R} without asking.",
    ],
    [
        "Crash! A cup fell down and broke.",
        "Then it slipped out of {his} hands and broke.",
        "Suddenly there was a loud crash.",
    ],
    [
        "{N} was frightened. {He} hid it under the bed.",
        "{N} quickly put everything into a box.",
        '"Nobody has seen it," thought {N}.',
    ],
    ['"Who did this?" asked {his} {R}.', "In the evening {his} {R} asked about it."],
    [
        '"It was {Fk}," said {N}.',
        '"I do not know," said {N} and turned red.',
        "{N} said that {Fk} had done it.",
    ],
    [
        "That night {he} could not sleep.",
        "{His} heart felt as heavy as a stone.",
        "{N} could not even eat {his} {food}.",
    ],
    [
        'In the morning {he} went to {his} {R}. "It was me," {he} said.',
        "At last {N} told the truth and cried.",
    ],
    [
        '"I am glad that you told me," said {his} {R}.',
        '{His} {R} was not angry. "We can mend it," the {R} said.',
        '{N} went to {F} and said, "I am sorry." {F} forgave {him}.',
    ],
    "honest",
]

SEED = [
    ["{time}, {N} got a seed from {Fk}.", "{time}, {N} found a {colour} seed near {P}."],
    [
        "{He} put it into the ground behind the house.",
        '"What will it become?" asked {N}. "Wait and see," said {Fk}.',
    ],
    ["Every day {he} gave it water.", "Every morning {N} looked at it, but nothing happened."],
    [
        "{n} days went by.",
        "One week went by, and then another.",
        "It rained, and then the sun came back.",
    ],
    [
        '"Maybe it is dead," said {N}.',
        "{N} was sad and wanted to dig it out.",
        '"You must be patient," said {his} {R}.',
    ],
    [
        "Then one day there was a little green leaf.",
        "And then, one morning, {he} saw something green.",
    ],
    [
        "It grew and grew until it was taller than {N}.",
        "Soon it was as tall as the house.",
        "It had {colour} flowers that smelled like honey.",
    ],
    [
        "{N} gave one flower to {F} and one to {his} {R}.",
        "In autumn there were enough fruits for everyone.",
        "All the bees and birds came to see it.",
    ],
    "work",
]

STORM = [
    ["{time}, a big storm came over {P}.", "{time}, it snowed so much that nobody could see {Q}."],
    [
        "{N} sat in the warm house with {his} {R} and ate {food}.",
        "{N} was at home and looked out of the window.",
    ],
    [
        "Then someone knocked at the door. It was {Fk}, wet and cold.",
        "Outside {he} saw {Fk}, who had no home.",
    ],
    [
        '"May I come in?" asked {F}.',
        '"Come in quickly!" called {N}.',
        "{N} opened the door at once.",
    ],
    [
        "They gave {F} a blanket and some {food}.",
        "{N} put {F} next to the fire.",
        "{N} gave {fhim} {his} own bed.",
    ],
    [
        "{F} told them stories about far away lands.",
        "All night they played games and sang songs.",
        "{F} had walked for {n} days over the hills.",
    ],
    ["In the morning the sun was shining again.", "When they woke up, the storm was over."],
    [
        '"I will never forget you," said {F} and gave {N} {T}.',
        '"Stay with us," said {N}, and {F} stayed.',
        "{F} said goodbye, but {fhe} came back every year.",
    ],
    "help",
]

VISIT = [
    [
        "{time}, {N} went to see {his} {R}, who lived behind {P}.",
        "{time}, {N} and {his} {R} took a trip to {P}. {weather}",
    ],
    ["On the way {he} met {Fk}.", "They met {F}, {a_ftrait} {fkind}, at {Q}."],
    [
        '"Where are you going?" asked {F}. "May I come with you?"',
        "{F} was going the same way, so they walked together.",
    ],
    [
        "They saw {n} {colour} birds and a very old tree.",
        "They counted the clouds and sang a song about {food}.",
        "They jumped over a stream and climbed over a wall.",
    ],
    [
        "Soon they were hungry, and {F} had some {food}.",
        "When they were tired, they sat in the shade of a tree.",
    ],
    [
        '"I like walking with you," said {N}.',
        '"Look how far we have come," said {F}.',
        "{F} showed {N} how to make {T} out of leaves.",
    ],
    [
        "In the evening they came home with tired feet.",
        "When the stars came out, they were home again.",
    ],
    [
        '"What a day!" said {N}.',
        "{N} told everyone about it.",
        "{N} fell asleep at once and dreamed of {P}.",
    ],
    "friend",
]

PLOTS = [
    LOST,
    RESCUE,
    SHARE,
    BUILD,
    FEAR,
    MARKET,
    QUARREL,
    GIFT,
    RACE,
    SECRET,
    TRUTH,
    SEED,
    STORM,
    VISIT,
]
CLOSING = [
    "The end.",
    "And that is the end of the story.",
    "{N} slept well that night.",
    "{N} smiled.",
]


def story(dice):
    s = slots(dice)
    plot = dice.pick(PLOTS)
    beats = [dice.pick(OPENING)] + [dice.pick(choices) for choices in plot[:-1]]
    beats.append(dice.pick(w.MORALS[plot[-1]]))
    if dice.chance(0.3):
        beats.append(dice.pick(CLOSING))
    out = []
    for beat in beats:
        text = beat.format(**s)
        out.append(text[0].upper() + text[1:])
    # Two or three paragraphs, cut at fixed thirds of the plot.
    cuts = {1, 6} if dice.chance(0.5) else {4}
    lines, line = [], []
    for i, text in enumerate(out):
        line.append(text)
        if i in cuts:
            lines.append(" ".join(line))
            line = []
    return "\n".join(lines + [" ".join(line)])
