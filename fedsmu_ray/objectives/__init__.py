"""What models are trained for and judged by: losses, and metrics of evaluation."""
