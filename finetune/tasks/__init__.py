"""Tasks as data: what a task is, where its rows come from, and what is published about it."""
