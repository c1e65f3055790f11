"""The stories of :mod:`openrlhf_negdata.tasks.word_problems`.

``[x|y]`` is one of the wordings, ``{name}``, ``{other}`` and ``{third}`` are people, ``{She}`` and ``{she}`` stand for
``{name}``, ``{a}`` to ``{e}`` are numbers, and ``{thing}`` and ``{things}`` are of the kind that the template names. A
calculation has two sides, each a number of the story, a number, or ``r1``, ``r2``, ``r3``: what the
calculation of that place came to.
"""

from __future__ import annotations

from dataclasses import dataclass

PEOPLE = {
    "she": (
        "Ada",
        "Anna",
        "Clara",
        "Dina",
        "Elena",
        "Fatima",
        "Grace",
        "Hana",
        "Ines",
        "Julia",
        "Lena",
        "Maya",
        "Nora",
    ),
    "he": ("Adam", "Ben", "Carlos", "David", "Emil", "Felix", "Hugo", "Ivan", "Jonas", "Kenji", "Liam", "Omar", "Tom"),
}
#: Singular and plural of what may take a place in a story.
KINDS = {
    "toy": "marble marbles, sticker stickers, button buttons, shell shells, card cards, bead beads, coin coins",
    "fruit": "apple apples, pear pears, peach peaches, orange oranges, lemon lemons, mango mangoes, melon melons",
    "pastry": "roll rolls, muffin muffins, bun buns, cookie cookies, pretzel pretzels, scone scones",
    "plant": "cabbage cabbages, lettuce lettuces, pumpkin pumpkins, onion onions, tomato tomatoes, beet beets",
    "school": "notebook notebooks, pencil pencils, ruler rulers, eraser erasers, folder folders, pen pens",
    "clothes": "shirt shirts, scarf scarves, cap caps, sweater sweaters, belt belts, jacket jackets",
    "part": "screw screws, wheel wheels, bolt bolts, spring springs, hinge hinges, bulb bulbs",
    "flower": "tulip tulips, rose roses, daisy daisies, lily lilies, sunflower sunflowers",
}


@dataclass(frozen=True)
class Template:
    """A story, the calculations that solve it, and from where to where its numbers go."""

    story: str
    calculations: tuple[str, ...]
    ranges: dict[str, tuple[int, int]]
    kind: str = "toy"


def _of(story: str, calculations: str, ranges: str, kind: str = "toy") -> Template:
    parted = [written.split() for written in ranges.split(", ")]
    return Template(
        story,
        tuple(calculations.split("; ")),
        {letter: (int(low), int(high)) for letter, low, high in parted},
        kind,
    )


TEMPLATES = (
    _of(
        "{name} has {a} {things}. {She} [buys|is given] {b} bags with {c} {things} in each, and then gives {d} "
        "{things} to {other}. How many {things} does {name} have now?",
        "b * c; a + r1; r2 - d",
        "a 5 40, b 2 6, c 3 12, d 3 30",
    ),
    _of(
        "A baker makes {a} trays of {b} {things}. {c} of the {things} burn, and the others are packed into boxes of "
        "{d}. How many boxes are filled?",
        "a * b; r1 - c; r2 / d",
        "a 3 12, b 6 20, c 2 15, d 3 9",
        "pastry",
    ),
    _of(
        "{name} reads {a} pages of a book on [Monday|Friday] and twice as many on the next day. The book has {b} "
        "pages. How many pages are left to read?",
        "a * 2; a + r1; b - r2",
        "a 11 60, b 120 400",
    ),
    _of(
        "A bus leaves the [station|airport] with {a} passengers. At the first stop {b} people get off and {c} get on. "
        "At the second stop {d} people get off. How many passengers are on the bus now?",
        "a - b; r1 + c; r2 - d",
        "a 20 60, b 3 19, c 3 19, d 3 19",
    ),
    _of(
        "A farmer grows {a} rows of {b} {things}. {c} {things} are [eaten by snails|lost to frost], and the farmer "
        "sells the others for {d} dollars each. How much money does the farmer get?",
        "a * b; r1 - c; r2 * d",
        "a 3 12, b 5 20, c 3 14, d 2 6",
        "plant",
    ),
    _of(
        "{name} saves {a} dollars a week for {b} weeks. {She} then spends {c} dollars on a [gift|game] and {d} "
        "dollars on a [book|bag]. How much money does {she} have left?",
        "a * b; r1 - c; r2 - d",
        "a 6 30, b 4 12, c 5 40, d 5 30",
    ),
    _of(
        "A school has {a} classes of {b} students. Today {c} students are ill, and all the others go on a trip. They "
        "exactly fill buses with {d} seats each. How many buses are there?",
        "a * b; r1 - c; r2 / d",
        "a 5 14, b 18 30, c 4 40, d 20 50",
    ),
    _of(
        "{name} and {other} [collect|gather] shells. {name} finds {a} shells, and {other} finds {b} more than {name}. "
        "They share all of them equally among {c} friends. How many shells does each friend get?",
        "a + b; a + r1; r2 / c",
        "a 10 60, b 3 30, c 3 9",
    ),
    _of(
        "A car park has {a} floors with {b} spaces on each. In the morning {c} cars are parked there. By noon {d} of "
        "these cars have left. How many spaces are free at noon?",
        "a * b; r1 - c; r2 + d",
        "a 3 8, b 20 60, c 30 60, d 4 29",
    ),
    _of(
        "Tickets for a [museum|zoo] cost {a} dollars for adults and {b} dollars for children. A group of {c} adults "
        "and {d} children has a voucher for {e} dollars. How much must the group still pay?",
        "c * a; d * b; r1 + r2; r3 - e",
        "a 9 20, b 3 8, c 2 6, d 3 12, e 5 20",
    ),
    _of(
        "A tank holds {a} liters of water. A [garden|greenhouse] uses {b} liters a day. After {c} days rain adds {d} "
        "liters to the tank. How many liters are in the tank then?",
        "b * c; a - r1; r2 + d",
        "a 200 900, b 12 60, c 3 9, d 15 80",
    ),
    _of(
        "A library has {a} shelves with {b} books on each. This week {c} books are borrowed and {d} books are "
        "returned. How many books stand in the library now?",
        "a * b; r1 - c; r2 + d",
        "a 8 30, b 20 45, c 40 90, d 10 39",
    ),
    _of(
        "{name} runs {a} kilometers on each of the five days from Monday to Friday and {b} kilometers on each of the "
        "two days of the weekend. How many kilometers does {she} run in {c} weeks?",
        "a * 5; b * 2; r1 + r2; r3 * c",
        "a 3 9, b 6 18, c 3 12",
    ),
    _of(
        "Each of {a} hens lays {b} eggs [in a month|in spring]. {name} keeps {c} of the eggs and sells the others in "
        "boxes of {d}. How many boxes does {she} sell?",
        "a * b; r1 - c; r2 / d",
        "a 6 20, b 11 24, c 6 30, d 4 12",
    ),
    _of(
        "{name} makes {a} candles a day for {b} days and sells each of them for {c} dollars. The wax cost {d} "
        "dollars. How many dollars are left when the wax is paid?",
        "a * b; r1 * c; r2 - d",
        "a 4 15, b 3 10, c 3 9, d 20 90",
    ),
    _of(
        "{name} buys {a} {things} for {b} dollars each and {c} bottles of juice for {d} dollars each. {She} pays with "
        "{e} dollars. How much change does {she} get?",
        "a * b; c * d; r1 + r2; e - r3",
        "a 2 9, b 3 8, c 2 6, d 2 4, e 50 100",
        "fruit",
    ),
    _of(
        "In the first half of a [basketball|handball] game, a team scores {a} points. In the second half it scores "
        "{b} points more than in the first. The other team scores {c} points in all. By how many points does the "
        "first team win?",
        "a + b; a + r1; r2 - c",
        "a 18 45, b 3 15, c 20 80",
    ),
    _of(
        "A machine makes {a} {things} an hour and runs for {b} hours. {c} of the {things} are faulty. The good ones "
        "are sent to {d} shops in equal numbers. How many {things} does each shop get?",
        "a * b; r1 - c; r2 / d",
        "a 20 90, b 4 12, c 5 40, d 3 9",
        "part",
    ),
    _of(
        "{name} plants {a} rows of {b} {things} and {c} rows of {d} bushes. [Rabbits|Goats] eat {e} of these plants. "
        "How many of the plants are left?",
        "a * b; c * d; r1 + r2; r3 - e",
        "a 3 9, b 6 15, c 2 6, d 4 9, e 5 30",
        "flower",
    ),
    _of(
        "{name} is {a} years old. {other} is {b} times as old as {name}, and {third} is {c} years older than {other}. "
        "How old are the three of them together?",
        "a * b; r1 + c; a + r1; r3 + r2",
        "a 4 9, b 3 5, c 3 30",
    ),
    _of(
        "A train has {a} cars with {b} seats in each. {c} seats are taken. At the next station {d} people get on and "
        "sit down, and nobody gets off. How many seats are still free?",
        "a * b; r1 - c; r2 - d",
        "a 4 12, b 30 70, c 40 110, d 5 60",
    ),
    _of(
        "{name} orders {a} pizzas, and each is cut into {b} slices. Then {c} guests eat {d} slices each. How many "
        "slices are left?",
        "a * b; c * d; r1 - r2",
        "a 4 15, b 6 12, c 5 20, d 2 5",
    ),
    _of(
        "{name} paints {a} fences that are {b} meters long each. One can of paint is enough for {c} meters, and a can "
        "costs {d} dollars. How much does the paint for all fences cost?",
        "a * b; r1 / c; r2 * d",
        "a 2 8, b 12 60, c 4 12, d 7 25",
    ),
    _of(
        "{name} has {a} red beads and {b} times as many blue beads. {She} needs {c} beads for one [necklace|bracelet] "
        "and uses them all. How many of these can {she} make?",
        "a * b; a + r1; r2 / c",
        "a 12 60, b 3 6, c 6 30",
    ),
    _of(
        "A [phone|bicycle] costs {a} dollars. {name} has already saved {b} dollars. {She} earns {c} dollars an hour "
        "and works {d} hours a day. How many days must {she} work to buy it?",
        "a - b; r1 / c; r2 / d",
        "a 150 900, b 20 140, c 8 15, d 2 8",
    ),
    _of(
        "Children sleep in {a} tents at a camp, {b} children in each, and {c} adults are with them. Every person "
        "drinks {d} bottles of water a day. How many bottles are needed for one day?",
        "a * b; r1 + c; r2 * d",
        "a 5 20, b 3 6, c 4 12, d 2 4",
    ),
    _of(
        "{name} has {a} {things}. {She} eats {b} of them and gives {c} to each of {d} [neighbors|friends]. How many "
        "{things} are left?",
        "c * d; a - b; r2 - r1",
        "a 40 120, b 2 4, c 2 9, d 3 9",
        "pastry",
    ),
    _of(
        "An album has {a} pages with room for {b} stamps on each. {name} owns {c} stamps and buys {d} packs of {e} "
        "stamps. How many more stamps does {she} need to fill the album?",
        "a * b; d * e; c + r2; r1 - r3",
        "a 12 40, b 8 20, c 20 90, d 2 6, e 5 20",
    ),
    _of(
        "In the morning a stall sells {a} {things}, and in the afternoon it sells {b} fewer. Each costs {c} dollars. "
        "How much money does the stall take in on that day?",
        "a - b; a + r1; r2 * c",
        "a 30 90, b 4 28, c 2 5",
        "fruit",
    ),
    _of(
        "A {thing} costs {a} dollars, but in a sale the price is {b} dollars lower. {name} buys {c} {things} in the "
        "sale and pays {d} dollars for delivery. How much does {she} pay in all?",
        "a - b; r1 * c; r2 + d",
        "a 20 60, b 3 15, c 2 8, d 4 15",
        "clothes",
    ),
    _of(
        "{name} climbs {a} floors of a tower, takes a rest, and then climbs {c} floors more. Each floor has {b} "
        "steps, and the whole tower has {d} steps. How many steps are still above {name}?",
        "a + c; r1 * b; d - r2",
        "a 3 12, b 12 24, c 3 9, d 200 700",
    ),
    _of(
        "{name} catches {a} fish, {other} catches {b} fish more than {name}, and {third} catches as many as these two "
        "together. They let {c} fish go. How many fish do the three keep?",
        "a + b; a + r1; r2 * 2; r3 - c",
        "a 3 15, b 2 9, c 3 20",
    ),
    _of(
        "{name} has {a} cards and {other} has {b}. They put their cards together and make {c} equal piles. Then {d} "
        "cards of the first pile are lost. How many cards does the first pile have now?",
        "a + b; r1 / c; r2 - d",
        "a 30 120, b 30 120, c 3 9, d 2 9",
    ),
    _of(
        "A cook makes {b} sandwiches with {a} slices of bread in each. A loaf has {c} slices and costs {d} dollars. "
        "How much does the bread for all sandwiches cost?",
        "a * b; r1 / c; r2 * d",
        "a 2 4, b 20 120, c 10 24, d 2 6",
    ),
    _of(
        "{name} earns {a} dollars an hour and works {b} hours a week. {She} pays {c} dollars a week for [rent|food]. "
        "How much money does {she} have left after {d} weeks?",
        "a * b; r1 - c; r2 * d",
        "a 9 22, b 15 40, c 60 130, d 2 9",
    ),
    _of(
        "A pet shop has {a} tanks with {b} fish in each. It sells {c} fish on Friday and twice as many on Saturday. "
        "How many fish does the shop have left?",
        "a * b; c * 2; c + r2; r1 - r3",
        "a 6 20, b 8 25, c 5 30",
    ),
    _of(
        "A hall has {a} rows of {b} chairs. Before a [concert|meeting], {c} of the rows are taken away. Then {d} "
        "people come, and each sits on a chair. How many chairs stay empty?",
        "a - c; r1 * b; r2 - d",
        "a 12 30, b 8 25, c 2 6, d 30 140",
    ),
    _of(
        "A puzzle has {a} pieces. {name} places {b} pieces a day for {c} days, and {other} places {d} pieces in all. "
        "How many pieces are still to be placed?",
        "b * c; r1 + d; a - r2",
        "a 300 1000, b 15 60, c 3 9, d 20 90",
    ),
    _of(
        "A park had {a} trees. A storm [knocked down|broke] {b} of them. Then the town planted {c} new trees in the "
        "park every year for {d} years. How many trees are there now?",
        "a - b; c * d; r1 + r2",
        "a 80 300, b 11 70, c 6 30, d 3 9",
    ),
    _of(
        "A cafe has {c} tables and puts {b} glasses of juice on each. One glass takes {a} oranges. When all glasses "
        "are full, {d} oranges are left over. How many oranges were there at first?",
        "b * c; r1 * a; r2 + d",
        "a 2 5, b 3 8, c 4 12, d 3 30",
    ),
    _of(
        "A shop rents out [bicycles|boats] for {a} dollars an hour each. {name} rents {b} of them for {c} hours and "
        "gets a discount of {d} dollars. How much does {she} pay?",
        "a * b; r1 * c; r2 - d",
        "a 4 12, b 2 6, c 2 6, d 3 15",
    ),
    _of(
        "{name} shovels snow for {a} neighbors, who pay {b} dollars each, and washes {c} cars for {d} dollars each. "
        "{She} wants a [camera|guitar] that costs {e} dollars. How many dollars does {she} still need?",
        "a * b; c * d; r1 + r2; e - r3",
        "a 3 9, b 5 15, c 2 8, d 6 15, e 150 400",
    ),
    _of(
        "A farm has {b} cows, and each gives {a} liters of milk a day. The family keeps {c} liters a day, and the "
        "rest exactly fills cans of {d} liters. How many cans are filled each day?",
        "a * b; r1 - c; r2 / d",
        "a 15 30, b 4 15, c 3 20, d 5 20",
    ),
    _of(
        "A camera has room for {a} photos. {name} takes {b} photos on each of {c} days and deletes {d} of them. How "
        "many more photos can {she} take?",
        "b * c; r1 - d; a - r2",
        "a 300 900, b 20 60, c 3 8, d 5 50",
    ),
    _of(
        "{name} has a [ribbon|rope] that is {a} centimeters long. {She} cuts off {b} pieces of {c} centimeters each "
        "and cuts the rest into {d} equal parts. How many centimeters long is each part?",
        "b * c; a - r1; r2 / d",
        "a 150 600, b 3 9, c 8 30, d 2 9",
    ),
    _of(
        "At a school with {a} students, {b} students vote for a [football|dance] club and {c} fewer vote for a chess "
        "club. All the others vote for a choir. How many students vote for the choir?",
        "b - c; b + r1; a - r2",
        "a 200 500, b 40 95, c 5 35",
    ),
    _of(
        "A mail carrier starts with {a} letters. In the morning she delivers {c} letters in each of {b} streets, and "
        "in the afternoon she delivers {d} letters more. How many letters are left?",
        "b * c; a - r1; r2 - d",
        "a 200 600, b 4 12, c 8 20, d 20 90",
    ),
    _of(
        "A theater sells {a} tickets for Friday and {b} times as many for Saturday. Every ticket costs {c} dollars. "
        "How much money does the theater get for both evenings?",
        "a * b; a + r1; r2 * c",
        "a 20 70, b 3 5, c 6 18",
    ),
    _of(
        "A wall needs {a} bricks. A mason lays {b} bricks an hour, and a helper lays {c} bricks an hour. They work "
        "together for {d} hours. How many bricks are still to be laid?",
        "b + c; r1 * d; a - r2",
        "a 500 1500, b 40 90, c 15 39, d 3 9",
    ),
    _of(
        "A teacher has {a} boxes with {b} {things} in each. She gives {c} {things} to each of her {d} students. How "
        "many {things} does she have left?",
        "a * b; c * d; r1 - r2",
        "a 4 15, b 10 24, c 2 5, d 15 30",
        "school",
    ),
)
