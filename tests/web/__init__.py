"""The playground in a real browser; `make test-web` builds what it takes."""
