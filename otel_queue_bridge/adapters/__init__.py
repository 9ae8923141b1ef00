"""One package per queue library; each has an `adapter`, which its entry point names."""
