"""The outputs of a model for a part of the data, exact and resumable, and their scores; knows no run."""
