"""Where a model sees its classes: maps of every head, what each method looks at, and pictures of both."""
