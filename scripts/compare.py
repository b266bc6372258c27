"""Which minima did SGD, quasi-Newton and ALTO find? The command ``landscape compare``, from a checkout.

python -m scripts.compare digits-mlp --seeds 5
"""

import sys

from landscape.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
