"""`python -m zsml`."""

import sys

from zsml.cli import main

sys.exit(main())
