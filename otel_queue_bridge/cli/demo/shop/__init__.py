"""The app of the demo, as a user would write it: a web app, and what it leaves to each queue."""
