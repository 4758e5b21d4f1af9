"""Networks: encoders, heads, decoders, pretrained weights, features."""
