"""The rules that say which step of a wrong answer is its first pit, the step that lost it."""

#: A rule's name, and what the first pit is by it.
PIT_IS = {
    "lowest_q": "the first step with the lowest Q after it",
    "lowest_advantage": "the first step with the least advantage",
    "zero_q": "the first step after which no rollout is right",
    "posterior": "the first step that most likely lost value",
}
PITS = tuple(PIT_IS)
