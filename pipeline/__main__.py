"""`python -m pipeline` is the `penstock` command."""

import sys

from pipeline.cli import main

sys.exit(main())
