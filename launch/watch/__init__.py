"""What a person watches: the state of runs, their table, their hours."""
