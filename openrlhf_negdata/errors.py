"""The one exception a user is meant to see."""


class UserError(Exception):
    """A bad argument or input. The message is one line: what, where, what to do. Commands exit with status 2 on it."""
