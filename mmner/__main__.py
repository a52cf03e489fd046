"""``python -m mmner``: the command `mmner`."""

import sys

from .cli import main

sys.exit(main())
