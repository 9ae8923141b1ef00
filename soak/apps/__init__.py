"""The apps: the tasks on each queue, and how they are submitted, also with junk as carrier."""
