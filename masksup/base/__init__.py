"""What every floor stands on: files, log, signals, the place of a rank, random draws, text. No torch."""
