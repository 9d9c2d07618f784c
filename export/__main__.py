"""`python -m export` is `sluice export`."""

from export.cli import app

if __name__ == "__main__":
    app(prog_name="sluice export")
