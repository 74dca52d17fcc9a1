"""`python -m regnet_backbones` is the command `regnet-backbones`."""

import sys

from regnet_backbones.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
