"""What is trained and asked: dual encoders, heads, tuning, baselines, fusion. Steps take a `Dataset` and return predictions."""
