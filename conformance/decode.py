#!/usr/bin/env python3
"""Print a captured Dat connection as messages: see dat/decode.py."""

import sys

from dat.decode import main

if __name__ == "__main__":
    sys.exit(main())
