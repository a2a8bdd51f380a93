"""`masksup demo`: a local page to which pictures are dropped."""
