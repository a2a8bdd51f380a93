"""Networks: a timm backbone that gives a feature map, and a head that turns it into logits."""
