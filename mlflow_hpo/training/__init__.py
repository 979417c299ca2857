"""The bundled PyTorch training: real data, an MLP and a small CNN, checkpoints that resume bit for bit."""
