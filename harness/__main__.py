"""`python -m harness` is `quantcliff`."""

from harness.cli import main

if __name__ == "__main__":
    main()
