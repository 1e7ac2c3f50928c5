"""How this program is called by whoever reads its messages."""

import os


def command(arguments: str) -> str:
    """The command line for ``arguments``, such as ``models list``, to end a message with.

    In a checkout ``perch`` is not on the path of whoever reads it: the script ``./run`` names itself in
    ``PERCH_COMMAND``.
    """
    return f"{os.environ.get('PERCH_COMMAND') or 'perch'} {arguments}"
