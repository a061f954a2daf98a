"""Long Range Arena: generators of its synthetic tasks and readers of its files."""
