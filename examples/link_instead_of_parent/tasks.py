"""Two jobs; nothing in them is about tracing."""


def welcome(name):
    print(f"Welcome, {name}!")


def report(name):
    print(f"{name} has signed up")
