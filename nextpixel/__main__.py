"""`python -m nextpixel`."""

import sys

from nextpixel.cli import main

sys.exit(main())
