"""Trackers: Weights & Biases, TensorBoard, MLflow and CSV files get what happens in a job while it happens."""
