"""Optional parts of Perch, and how a user gets them."""


def how_to_install(extra: str) -> str:
    """The command for ``extra``, to end a message with."""
    return f"pip install 'perch-asr[{extra}]' (in a checkout: ./run install {extra})"
