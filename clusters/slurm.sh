#!/usr/bin/env bash
# A sweep on several nodes of a SLURM cluster: `sbatch clusters/slurm.sh my.yaml [key=value ...]`, in the folder of the recipe.
# That folder and the Python environment must be on a file system that all nodes see, as home folders usually are.
# With checkpoint.every in the recipe, a job that ran out of time goes on: `sbatch clusters/slurm.sh my.yaml --resume`.
#SBATCH --job-name=fedsmu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=12:00:00
set -euo pipefail

source "${FEDSMU_ENV:-$HOME/fedsmu_env}/bin/activate"  # made by: python3 -m venv ~/fedsmu_env, pip install ".[cluster]" -c constraints.txt

# A token of this job, without which other users of these nodes cannot join it.
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Seconds for all nodes to join, and for the others to end after the first one.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_gcs_rpc_server_reconnect_timeout_s=10

read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$head:$((20000 + SLURM_JOB_ID % 10000))

# Starts Ray on every node, the command on the first one, and stops Ray after it. The exit code of symmetric-run says also
# how Ray was stopped, so the command notes its own.
status=$(mktemp "$PWD/.fedsmu-status-XXXXXX")
export status
trap 'rm -f "$status"' EXIT
# shellcheck disable=SC2016 # $status is expanded where the command runs
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
  bash -c '"$@"; echo $? > "$status"' - python -m fedsmu_ray.tune "$@" --address "$address" || true
read -r code < "$status" || code=1  # it never started
exit "$code"
