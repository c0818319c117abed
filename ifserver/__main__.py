"""``python -m ifserver``"""

import sys

from ifserver.cli import main

if __name__ == "__main__":
    sys.exit(main())
