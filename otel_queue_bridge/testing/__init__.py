"""The contract that every adapter must fulfil, with all that it takes to run it."""
