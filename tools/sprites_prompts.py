"""Draws the prompts that caches of `sprites` are calibrated and judged on: `python tools/sprites_prompts.py > models/sprites/prompts.txt`.

80 different ones; in the first and in the second half alike every motion occurs 4 times, every color 5 times, and so on as evenly as the counts go.
The draw is a linear congruential generator's, so that it is the same everywhere.
"""

VOCABULARY = [
    "small large",
    "red green blue yellow white purple orange cyan",
    "circle square triangle ring",
    "still left right up down bouncing orbiting spinning growing shrinking",
    "slowly fast",
    "black gray navy gradient checkerboard striped",
]
HALF = 40
state = 1


def below(n):
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return (state >> 33) % n


def column(words):
    """Each of the words equally often, or nearly so, in a drawn order."""
    column = [words[i % len(words)] for i in range(HALF)]
    for i in range(HALF - 1, 0, -1):
        j = below(i + 1)
        column[i], column[j] = column[j], column[i]
    return column


drawn = []
for title in ["calibration", "held out"]:
    while True:
        half = [" ".join(words) for words in zip(*(column(words.split()) for words in VOCABULARY))]
        if len(set(drawn + half)) == len(drawn) + HALF:
            break
    drawn += half
    print(f"# {title}: {HALF} prompts, by tools/sprites_prompts.py", *half, sep="\n")
