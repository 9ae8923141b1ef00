"""Workers of every queue under load and faults: what they export has to be what happened."""
