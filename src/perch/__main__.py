"""``python -m perch``."""

import sys

from perch.cli.main import main

sys.exit(main())
