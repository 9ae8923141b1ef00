"""One module per queue library; each ends in an `adapter`, found by its entry point."""
