"""Training methods: an `nn.Module` whose `forward(batch)` gives `(loss, logs)` and `predict(images)` logits."""
