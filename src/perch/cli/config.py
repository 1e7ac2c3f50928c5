"""``perch config check|example``."""

import argparse
import sys

from perch import settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("check", "example"), help="check the settings, or print .env.example"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.what == "example":
        print(settings.example())
        return 0
    try:
        loaded = settings.load()
    except settings.InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    print(f"The settings are valid; the backend is {loaded.backend()}.")
    return 0
