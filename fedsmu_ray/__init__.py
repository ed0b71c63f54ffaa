"""fedsmu_ray: federated learning experiments with 1-bit uploads, over Ray and MLflow."""
