"""Tables of labels: a text or Parquet table -> rows of cells -> labels of images, by rules that are stated."""
