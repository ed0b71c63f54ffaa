# The image of a cluster's nodes: the package and the versions of constraints.txt on Ray's own GPU image.
#
#   docker build -t REGISTRY/fedsmu:0.1.0 . && docker push REGISTRY/fedsmu:0.1.0
#
# Python and Ray must be those of the driver: `py311` here, and ray==... in constraints.txt.
FROM rayproject/ray:2.60.0-py311-gpu

COPY --chown=ray:users pyproject.toml README.md LICENSE constraints.txt /tmp/fedsmu_ray/
COPY --chown=ray:users fedsmu_ray /tmp/fedsmu_ray/fedsmu_ray
COPY --chown=ray:users tune_configs /tmp/fedsmu_ray/tune_configs
RUN pip install --no-cache-dir "/tmp/fedsmu_ray[cluster,optuna]" -c /tmp/fedsmu_ray/constraints.txt && rm -r /tmp/fedsmu_ray

ENV RAY_USAGE_STATS_ENABLED=0
