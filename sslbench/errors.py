"""The errors that the command line turns into one line."""


class NotApplicable(Exception):  # noqa: N818 - it is a result, not an error
    """This encoder, dataset or task cannot do what was asked; the text is the record's reason."""


class UserError(Exception):
    """Wrong input: the text names what was found and what is allowed."""


def suggest(word: str, allowed: "list[str]") -> str:
    """Complete an error message: the nearest allowed word, then all of them."""
    import difflib

    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(sorted(allowed))}"
